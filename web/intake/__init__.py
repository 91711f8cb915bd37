"""Taking photos in: from the bytes on the wire to a job in the ledger."""
