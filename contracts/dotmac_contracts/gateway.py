"""Events of the gateway."""

from dotmac_contracts import topics
from dotmac_contracts.quota import QuotaThreshold


class ApiCallQuotaThresholdReached(QuotaThreshold, topic=topics.GATEWAY_QUOTA):
    """A tenant has made 80 % of the API calls that its plan allows in a minute, or all of them; told once an hour at
    most. Versions only grow from one to the next."""
