"""The configuration as a file."""

from pathlib import Path

from userproxy.config.file import decode
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves, plain, replaced
from userproxy.errors import UsageError


def render(configuration: KubeProxyConfiguration) -> bytes:
    """The configuration as YAML, with every field."""
    import yaml  # only a start that writes needs it

    # Escaped to ASCII: PyYAML writes a bare U+0085 as a line break, and reads it back as a blank.
    return yaml.safe_dump(plain(configuration), encoding="ascii", default_flow_style=False)


def write(configuration: KubeProxyConfiguration, file: Path) -> tuple[str, ...]:
    """Write the file, and return the paths that it cannot express, because zero means the default there.

    Raises UsageError where the file cannot be written.
    """
    data = render(configuration)
    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"--write-config-to: {file}: {(error.strerror or str(error)).lower()}") from error
    read = dict(leaves(replaced(KubeProxyConfiguration(), decode(data).given)))
    return tuple(path for path, value in leaves(configuration) if value != read[path])
