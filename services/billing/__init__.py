"""An ISP's billing: accounts, plans, subscriptions, invoices, payments."""
