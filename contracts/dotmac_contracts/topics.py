"""The one place that states which topics exist: owner, key, partitions and retention."""

from dataclasses import dataclass

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic: one per aggregate and major version, keyed by the aggregate's id."""

    name: str
    owner: str
    """Who alone publishes to it: a service, or the gateway."""
    key: str
    """The field of its events that is the record's key."""
    description: str
    public: bool = False
    """Whether a tenant's own systems get its events by feed and webhook; the rest is between the services."""
    partitions: int = 6
    retention_ms: int = 7 * _DAY_MS
    """How long its records are kept; of a compacted one, those without a value."""
    compacted: bool = False
    """Whether the last record of each key is kept for good, and of those before it nothing is promised. One without a
    value says that the aggregate is gone, and goes too once `retention_ms` have passed: whoever reads the topic within
    that time learns of it."""

    @property
    def domain(self) -> str:
        """The first part of the name."""
        return self.name.split(".")[0]

    @property
    def configuration(self) -> dict[str, str]:
        """What Kafka is told of it when it is created."""
        if self.compacted:  # `delete` lets records be deleted by hand, as a recovery does; none goes by its age
            kept = str(self.retention_ms)
            return {"cleanup.policy": "compact,delete", "retention.ms": "-1", "delete.retention.ms": kept}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}


TENANT = Topic("tenant.tenant.v1", "tenant", "tenant_id", "Tenants: registered, changed, activated.", public=True)
TENANT_SNAPSHOT = Topic(
    "tenant.tenant-snapshot.v1",
    "tenant",
    "tenant_id",
    "Tenants as they are now, each whole.",
    compacted=True,
)
TENANT_DEPLOYMENT = Topic(
    "tenant.deployment.v1", "tenant", "deployment_id", "Deployments that the management platform asks for."
)
TENANT_DEPLOYMENT_TEMPLATE = Topic(
    "tenant.deployment-template.v1", "tenant", "template_id", "Templates by which tenants are deployed."
)
TENANT_USER = Topic("tenant.user.v1", "tenant", "user_id", "Users of tenants.")
TENANT_SIGN_UP = Topic("tenant.sign-up.v1", "tenant", "sign_up_id", "ISPs that sign up by themselves.")
TENANT_API_KEY = Topic("tenant.api-key.v1", "tenant", "api_key_id", "API keys of users.")
TENANT_SERVICE_ACCOUNT = Topic(
    "tenant.service-account.v1", "tenant", "service_account_id", "Accounts that programs work as."
)
TENANT_ROLE = Topic("tenant.role.v1", "tenant", "role_id", "Roles that tenants define themselves.")
TENANT_SESSION = Topic(
    "tenant.session.v1",
    "tenant",
    "user_id",
    "Sign-ins, and access tokens that were revoked, kept longer than any token lives.",
    retention_ms=_DAY_MS,
)
TENANT_SETTINGS = Topic("tenant.settings.v1", "tenant", "settings_id", "Settings of tenants, by category.")
TENANT_SETTINGS_SNAPSHOT = Topic(
    "tenant.settings-snapshot.v1",
    "tenant",
    "settings_id",
    "Settings of tenants as they are now, each category whole.",
    compacted=True,
)
PROVISIONING_DEPLOYMENT = Topic(
    "provisioning.deployment.v1",
    "provisioning",
    "deployment_id",
    "How deployments go, and what they ask of other services.",
)
PROVISIONING_ROUTE_SNAPSHOT = Topic(
    "provisioning.route-snapshot.v1",
    "provisioning",
    "tenant_id",
    "Where tenants with instances of their own are answered now.",
    compacted=True,
)
PROVISIONING_DRIFT = Topic(
    "provisioning.drift.v1",
    "provisioning",
    "drift_id",
    "What of tenants is not as their deployments left it: found, and resolved.",
)
CUSTOMER = Topic("customer.customer.v1", "customer", "customer_id", "Customers of an ISP.", public=True)
CUSTOMER_SNAPSHOT = Topic(
    "customer.customer-snapshot.v1",
    "customer",
    "customer_id",
    "Customers as they are now, each whole.",
    compacted=True,
)
CUSTOMER_WORKSPACE = Topic(
    "customer.workspace.v1", "customer", "tenant_id", "A tenant's place in the customer service."
)
CUSTOMER_QUOTA = Topic(
    "customer.quota.v1", "customer", "tenant_id", "How much of its quota of customers a tenant uses.", public=True
)
GATEWAY_QUOTA = Topic(
    "gateway.quota.v1", "gateway", "tenant_id", "How much of its quota of API calls a tenant uses.", public=True
)
BILLING_WORKSPACE = Topic("billing.workspace.v1", "billing", "tenant_id", "A tenant's place in the billing service.")
BILLING_ACCOUNT = Topic("billing.account.v1", "billing", "account_id", "Billing accounts.", public=True)
BILLING_PLAN = Topic("billing.plan.v1", "billing", "plan_id", "Plans that can be subscribed to.", public=True)
BILLING_SUBSCRIPTION = Topic("billing.subscription.v1", "billing", "subscription_id", "Subscriptions.", public=True)
BILLING_SUBSCRIPTION_SNAPSHOT = Topic(
    "billing.subscription-snapshot.v1",
    "billing",
    "subscription_id",
    "Subscriptions as they are now, each whole.",
    compacted=True,
)
BILLING_INVOICE = Topic("billing.invoice.v1", "billing", "invoice_id", "Invoices: issued, paid.", public=True)
BILLING_PAYMENT = Topic("billing.payment.v1", "billing", "payment_id", "Payments received.", public=True)
INTEGRATION_WEBHOOK = Topic(
    "integration.webhook.v1",
    "integration",
    "endpoint_id",
    "Webhook endpoints: created, changed, disabled, deleted.",
    public=True,
)
TENANT_DEPARTURE = Topic(
    "tenant.departure.v1",
    "tenant",
    "deployment_id",
    "What the tenant service wrote down and deleted of tenants that leave.",
)
CUSTOMER_DEPARTURE = Topic(
    "customer.departure.v1",
    "customer",
    "deployment_id",
    "What the customer service wrote down and deleted of tenants that leave.",
)
BILLING_DEPARTURE = Topic(
    "billing.departure.v1",
    "billing",
    "deployment_id",
    "What the billing service wrote down and deleted of tenants that leave.",
)
INTEGRATION_DEPARTURE = Topic(
    "integration.departure.v1",
    "integration",
    "deployment_id",
    "What the integration service wrote down and deleted of tenants that leave.",
)

ALL: tuple[Topic, ...] = (
    TENANT,
    TENANT_SNAPSHOT,
    TENANT_DEPLOYMENT,
    TENANT_DEPLOYMENT_TEMPLATE,
    TENANT_USER,
    TENANT_ROLE,
    TENANT_SIGN_UP,
    TENANT_API_KEY,
    TENANT_SERVICE_ACCOUNT,
    TENANT_SESSION,
    TENANT_SETTINGS,
    TENANT_SETTINGS_SNAPSHOT,
    PROVISIONING_DEPLOYMENT,
    PROVISIONING_ROUTE_SNAPSHOT,
    PROVISIONING_DRIFT,
    CUSTOMER,
    CUSTOMER_SNAPSHOT,
    CUSTOMER_WORKSPACE,
    CUSTOMER_QUOTA,
    GATEWAY_QUOTA,
    BILLING_WORKSPACE,
    BILLING_ACCOUNT,
    BILLING_PLAN,
    BILLING_SUBSCRIPTION,
    BILLING_SUBSCRIPTION_SNAPSHOT,
    BILLING_INVOICE,
    BILLING_PAYMENT,
    INTEGRATION_WEBHOOK,
    TENANT_DEPARTURE,
    CUSTOMER_DEPARTURE,
    BILLING_DEPARTURE,
    INTEGRATION_DEPARTURE,
)
