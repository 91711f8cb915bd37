"""The web application: built from settings, with its collaborators passed in, and nothing at import."""

import atexit
from typing import Final

from flask import Flask

from shared.settings import Settings
from web import access, auth, problems
from web.api import (
    deliveries,
    events,
    images,
    job_changes,
    jobs,
    keys,
    links,
    model_changes,
    model_reports,
    models,
    receipts,
    results,
    sending,
    service,
    shadow_runs,
    webhooks,
)
from web.health import Examiner, health
from web.operations import described_rules
from web.pages.documents import pages
from web.services import Services

_API: Final = (
    events,
    sending,
    jobs,
    job_changes,
    results,
    receipts,
    images,
    links,
    webhooks,
    deliveries,
    service,
    keys,
    models,
    model_changes,
    model_reports,
    shadow_runs,
)


def create_app(settings: Settings) -> Flask:
    """Return the application for these settings; raises ``StorageAway`` where the storage folder cannot be made."""
    here = Services.open(settings)
    app = Flask("web", template_folder="templates", static_folder=None)
    # An address with a double slash is an unknown one: the router would redirect it, in HTML.
    app.url_map.merge_slashes = False
    app.extensions["poxvisio"] = here
    app.extensions["poxvisio.examiner"] = Examiner()
    atexit.register(here.close)
    problems.install(app)
    access.install(app)
    auth.install(app)
    for blueprint in (*(module.api for module in _API), pages, health):
        app.register_blueprint(blueprint)
    # Fail here rather than serve a route that is neither described nor guarded.
    list(described_rules(app))
    return app
