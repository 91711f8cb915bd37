"""The network as served: preprocessing, engines, answers. Knows no Celery, database or bucket."""
