"""The verbs that span resources. No HTTP in here."""
