"""What the WSGI server loads: ``granian --interface wsgi web.wsgi:app``."""

from shared import crash_points, heap, logs

with heap.loading():
    from shared.errors import InvalidSetting
    from shared.settings import Settings
    from web import peers
    from web.app import create_app
    from web.ending import on_end
    from web.services import Services

try:
    settings = Settings.load()
except InvalidSetting as error:
    raise SystemExit(f"web: {error}") from None
logs.configure(settings.log_level)
crash_points.arm(settings.crash_point)
app = create_app(settings)
peers.install(app)
here: Services = app.extensions["poxvisio"]
on_end(here.end_waiting)
heap.settle()
