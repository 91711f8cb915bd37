"""The register of models: bundles in the storage, which of them serve, and every change of that.

Nothing here is a tenant's. As long as nothing was published the bundle that ``MODEL`` names serves, and it stays the
one that an empty ``live`` means.
"""
