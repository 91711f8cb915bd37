"""The workers: Celery wakes them, the ledger tells them what to do. Never imports the web side."""
