"""`python -m deploy.kubernetes check` validates the manifests; `write` writes Kafka's topics and users."""

import sys

from rich.console import Console

from deploy.kubernetes import kafka_resources, manifests

console = Console(soft_wrap=True, highlight=False)


def check() -> list[str]:
    """Return what is wrong with the manifests, as they were written and, where that is possible, as rendered."""
    found = [
        f"{path.relative_to(manifests.FOLDER)} is stale: run `make contracts` and commit it"
        for path, content in kafka_resources.files().items()
        if not path.exists() or path.read_text() != content
    ]
    written = manifests.files()
    for path, resources in written.items():
        found += manifests.problems(resources, str(path.relative_to(manifests.FOLDER)))
    command = manifests.renderer()
    if command is None:
        console.print(
            f"Kubernetes: {len(written)} files validated, rendering skipped: there is no kustomize (or kubectl 1.27 or"
            " newer); docs/operations/kubernetes.md says how to get one"
        )
        return found
    count = 0
    for overlay in manifests.OVERLAYS:
        try:
            rendered = manifests.render(overlay, command)
        except manifests.RenderError as error:
            found.append(str(error))
            continue
        count += len(rendered)
        found += manifests.problems(rendered, overlay)
    if not found:
        overlays = " and ".join(manifests.OVERLAYS)
        console.print(f"Kubernetes: {len(written)} files and {count} resources of {overlays} validated")
    return found


def main() -> None:
    """Check, or write."""
    match sys.argv[1:]:
        case ["check"]:
            found = check()
            sys.exit("\n".join(found) if found else None)
        case ["write"]:
            for path, content in kafka_resources.files().items():
                path.write_text(content)
        case _:
            sys.exit("usage: python -m deploy.kubernetes check|write")


if __name__ == "__main__":
    main()
