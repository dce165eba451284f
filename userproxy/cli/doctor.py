"""``userproxy doctor``: what on this node would keep a proxy from serving."""

from collections.abc import Iterable, Sequence

import click

from userproxy.cli.errors import FAILED, exit_on_usage_error
from userproxy.cli.flags import given_of, normalised, with_flags
from userproxy.config import load
from userproxy.config.flags import FLAGS

_HEEDED = (
    "manifests",
    "portals",
    "conntrack-guard",
    "service-proxy-name",
    "context",
    "config",
    "kubeconfig",
    "master",
    "hostname-override",
    "bind-address",
    "healthz-bind-address",
    "metrics-bind-address",
)
"""The flags of ``run`` on which depends what is looked at."""

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(context_settings={"token_normalize_func": normalised})
@with_flags([flag for flag in FLAGS if flag.name in _HEEDED])
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@exit_on_usage_error
def doctor(*, output: str, **flags: str | Sequence[str] | None) -> None:
    """Look at everything that can go wrong on this node, and say what to do about it.

    For a proxy that would run with these flags, or runs already. A line for each finding: ok, warn (something works
    less well than it could) or fail (it would not serve), what was found, and after an arrow what to do. Nothing is
    changed. Exit code 1 where something fails.
    """
    settings = load(given_of(flags)).settings
    import structlog

    from userproxy.doctor.checks import examine
    from userproxy.doctor.findings import Finding, Result

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what matters is said by findings
    found: list[Finding] = []

    def noted() -> Iterable[Finding]:
        for finding in examine(settings):
            found.append(finding)
            yield finding

    if output == "json":
        import msgspec

        items = msgspec.json.encode({"items": list(noted())})
        click.echo(msgspec.json.format(items, indent=2))
    else:
        for finding in noted():
            click.echo(_line(finding.name, finding.result, finding.text, finding.advice))
    if any(finding.result is Result.FAIL for finding in found):
        raise SystemExit(FAILED)


def _line(name: str, result: str, text: str, advice: str) -> str:
    """A line of text; only a terminal gets colours."""
    said = f"{name}: {text}" + (f" -> {advice}" if advice else "")
    return f"{click.style(f'{result:<4}', fg=_COLOURS[result])}  {' '.join(said.split())}"
