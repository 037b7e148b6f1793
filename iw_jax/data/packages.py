"""The message for a package that a loader needs and does not find."""


def missing_package(name: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error to raise when loading `name` met the given import error."""
    return ModuleNotFoundError(
        f"loading {name!r} needs the package {error.name!r}, which is not installed: "
        "pip install -e '.[experiments]'",
        name=error.name,
    )
