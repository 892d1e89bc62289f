"""The page of a comparison: one HTML file with tables, pictures and plots that needs neither a network nor a server.

Everything is inside: pictures as PNG, the scripts of this folder, and plotly.js (MIT), which draws the two plots; the
page forbids itself every request by a Content-Security-Policy. Names of runs and images come from files of others:
the template escapes all text.
"""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from experiments.compare.page.charts import chart_data
from experiments.compare.page.crops import examples
from experiments.compare.tables import describe, parameters_text, result_tables
from experiments.compare.types import Comparison
from experiments.results.writers import html


def page(comparison: Comparison, pictures: int = 8) -> str:
    """The HTML file; the same comparison and pictures give the same text.

    Args:
        pictures: most images that are shown side by side.
    """
    charts = chart_data(comparison)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_file("page.html")).render(
        comparison=comparison,
        describe=describe,
        result_tables=result_tables,
        html=html,
        examples=examples(comparison, pictures),
        charts=charts,
        parameters=parameters_text,
        css=Markup(_file("page.css")),
        scripts={name: Markup(_file(f"{name}.js")) for name in ("charts", "tables", "viewer")},
        plotly=Markup(_plotly()) if charts["curves"] or charts["speed"] else "",
    )


def _file(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js as the package carries it; its import is put off because only this page needs it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
