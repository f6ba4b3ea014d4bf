"""The FastAPI application: every router of `mediatheca.resources`, derived and hand-written, behind the front door."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from mediatheca import __version__
from mediatheca.api import errors
from mediatheca.api.auth import Auth
from mediatheca.api.crud import crud_router
from mediatheca.api.front import Front
from mediatheca.api.limits import RateLimiter
from mediatheca.api.route_index import RouteIndex
from mediatheca.flows.services import Services
from mediatheca.kernel.discovery import discover
from mediatheca.resources.base import Resource
from mediatheca.resources.health import Examination, metrics_router


def routers() -> list[APIRouter]:
    """Hand-written routers first, so that a fixed path wins over `/{identifier}`; then the derived ones."""
    resources = list(discover("mediatheca.resources", Resource))
    written = [router for router in discover("mediatheca.resources", APIRouter) if router is not metrics_router]
    return [*written, *(crud_router(resource) for resource in resources)]


def build_api(services: Services, auth: Auth) -> FastAPI:
    """The application over these services. `app.state.services` and `app.state.auth` are what dependencies read."""
    app = FastAPI(
        title="Mediatheca",
        version=__version__,
        summary="An open, self-hosted multimodal data warehouse.",
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.auth = auth
    app.state.examination = Examination(services)
    found = routers()
    app.router.routes.append(RouteIndex("/v1", found))
    for router in found:
        app.include_router(router, prefix="/v1")
    app.include_router(metrics_router)
    errors.install(app)
    settings = services.settings
    limiter = RateLimiter(settings.rate_limit_rpm) if settings.rate_limit_rpm else None
    app.add_middleware(Front, max_body=settings.max_body_mb << 20, limiter=limiter, auth=auth)
    _document_security(app)
    return app


def _document_security(app: FastAPI) -> None:
    """Say in the OpenAPI document that everything needs a bearer key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = plain()
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
            schema["security"] = [{"bearer": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
