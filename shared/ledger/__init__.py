"""The ledger: the only code that moves a job or a unit. It knows no Celery, Flask or network.

Every function takes an open session and is called inside ``with database.transaction(...)``. Locks are always taken in
one order, so that nothing deadlocks: units, then jobs by id, then the tenants' event counters by id.
"""
