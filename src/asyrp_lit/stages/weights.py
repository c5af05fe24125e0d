"""What base models there are, where their weights are looked for and whether they are there; fetching them."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from asyrp_lit.models.weights import WeightSource, find_weights
from asyrp_lit.stages.guard import console_log, errors_as_messages

log = logging.getLogger(__name__)


def weights(arguments: Sequence[str], conf: Path) -> None:
    """Run ``list`` or ``fetch`` as the command line says.

    Args:
        arguments: of the command line, without the script.
        conf: the folder of configuration.
    """
    options = _make_parser().parse_args(arguments)
    with (
        console_log(),
        errors_as_messages(),
        initialize_config_dir(str(conf.resolve()), version_base="1.3"),
    ):
        if options.verb == "list":
            sys.stdout.write("\n".join(tabulate_models(conf, options.overrides)) + "\n")
        else:
            fetch_weights(compose("train", options.overrides))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weights.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | fetch")
    verb = verbs.add_parser("list", help="every base model, where its weights are expected and whether they are there")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="such as paths.cache=/path")
    verb = verbs.add_parser("fetch", help="fetch the weights of a base model into the cache")
    verb.add_argument(
        "overrides", nargs="+", metavar="key=value", help="model=NAME, and others such as paths.cache=/path"
    )
    return parser


def tabulate_models(conf: Path, overrides: Sequence[str] = ()) -> list[str]:
    """One line for every model of ``conf/model``: name, whether its weights are there, where."""
    names = sorted(path.stem for path in (conf / "model").glob("*.yaml"))
    rows = [(name, *_look_up(compose("train", [f"model={name}", *overrides]))) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name.ljust(widths[0])}  {state.ljust(widths[1])}  {place}" for name, state, place in rows]


def _look_up(cfg: DictConfig) -> tuple[str, str]:
    """Whether the weights of a model are there, and where they are or would be."""
    if "weights" not in cfg.model:
        return "embedded", "comes with the package"
    source = _get_source(cfg)
    if source is None:
        return "yours", "model.weights=/path"
    cache = Path(cfg.paths.cache).expanduser()
    found = source.look_up(cache)
    return ("there", str(found)) if found else ("missing", str(source.expect_at(cache)))


def _get_source(cfg: DictConfig) -> WeightSource | None:
    source: WeightSource | None = instantiate(cfg.model.source) if "source" in cfg.model else None
    return source


def fetch_weights(cfg: DictConfig) -> None:
    """Fetch the weights of ``model`` unless they are there.

    Raises:
        FileNotFoundError: they cannot be had; the message says where to put them.
        ValueError: the model has none to fetch.
    """
    name, source = cfg.model.name, _get_source(cfg)
    if source is None:
        raise ValueError(f"model={name} has nothing to fetch: {' '.join(_look_up(cfg))}")
    log.info("%s: %s", name, find_weights(name, None, source, cfg.paths.cache))
