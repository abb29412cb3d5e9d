"""The one place that states which topics exist: owner, key, partitions and retention."""

from dataclasses import dataclass

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic: one per aggregate and major version, keyed by the aggregate's id."""

    name: str
    owner: str
    """The service that alone publishes to it."""
    key: str
    """The field of its events that is the record's key."""
    description: str
    partitions: int = 6
    retention_ms: int = 7 * _DAY_MS

    @property
    def domain(self) -> str:
        """The first part of the name."""
        return self.name.split(".")[0]


TENANT = Topic("tenant.tenant.v1", "tenant", "tenant_id", "Tenants: registered, changed, activated.")
TENANT_DEPLOYMENT = Topic(
    "tenant.deployment.v1", "tenant", "deployment_id", "Deployments that the management platform asks for."
)
TENANT_USER = Topic("tenant.user.v1", "tenant", "user_id", "Users of tenants.")
PROVISIONING_DEPLOYMENT = Topic(
    "provisioning.deployment.v1",
    "provisioning",
    "deployment_id",
    "How deployments go, and what they ask of other services.",
)
CUSTOMER = Topic("customer.customer.v1", "customer", "customer_id", "Customers of an ISP.")
CUSTOMER_WORKSPACE = Topic(
    "customer.workspace.v1", "customer", "tenant_id", "A tenant's place in the customer service."
)
BILLING_WORKSPACE = Topic("billing.workspace.v1", "billing", "tenant_id", "A tenant's place in the billing service.")
BILLING_ACCOUNT = Topic("billing.account.v1", "billing", "account_id", "Billing accounts.")
BILLING_PLAN = Topic("billing.plan.v1", "billing", "plan_id", "Plans that can be subscribed to.")
BILLING_SUBSCRIPTION = Topic("billing.subscription.v1", "billing", "subscription_id", "Subscriptions.")
BILLING_INVOICE = Topic("billing.invoice.v1", "billing", "invoice_id", "Invoices: issued, paid.")
BILLING_PAYMENT = Topic("billing.payment.v1", "billing", "payment_id", "Payments received.")

ALL: tuple[Topic, ...] = (
    TENANT,
    TENANT_DEPLOYMENT,
    TENANT_USER,
    PROVISIONING_DEPLOYMENT,
    CUSTOMER,
    CUSTOMER_WORKSPACE,
    BILLING_WORKSPACE,
    BILLING_ACCOUNT,
    BILLING_PLAN,
    BILLING_SUBSCRIPTION,
    BILLING_INVOICE,
    BILLING_PAYMENT,
)
