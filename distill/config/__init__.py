"""How a recipe becomes options (`distill.options`).

A recipe is a YAML file. `extends:` names another one to start from, so that a recipe states only what
differs. `key=value` words of the command line override both. Unknown keys and wrong types are refused by
name. A value may refer to another key of the recipe, as in `${data.root}`, and to nothing else
(`distill.config.references`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from distill.atomic import MAX_YAML, check_yaml, read_bytes
from distill.config.references import check_override, check_text, check_values
from distill.distortions.options import VARIANTS
from distill.errors import ConfigError, DamagedFile, UserError, first_line
from distill.options import AdaptRecipe, DistillRecipe, FinetuneRecipe, Recipe, SpiralRecipe

Options = TypeVar("Options")

KINDS: dict[str, type[Recipe]] = {
    "distil": DistillRecipe,
    "adapt": AdaptRecipe,
    "spiral": SpiralRecipe,
    "finetune": FinetuneRecipe,
    "teacher": Recipe,
}


_MAX_EXTENDS = 20
"""Recipes that extend one another: those that ship are at most five."""
END_LINE = "# End of the recipe: without this line, the file is not whole."
"""Begins the last line of a run's recipe.yaml; a file without it may be cut off."""


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("distill.recipes").iterdir()
        if entry.name.endswith(".yaml") and not entry.name.startswith("_")
    )


def load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        recipe: the name of a shipped one ("s4"), or the path of a YAML file.
        overrides: "key.path=value" each.

    Raises:
        ConfigError: for an unknown recipe or key (with the nearest valid name), a wrong type or value.
    """
    from omegaconf import OmegaConf

    with _refused(recipe):
        stated = OmegaConf.merge({}, *map(_override, overrides))
        values: Any = OmegaConf.merge(_read(recipe, seen=()), _with_variant(stated))
        kind = str(OmegaConf.select(values, "kind", default="distil"))
        if kind not in KINDS:
            raise ConfigError(f"{recipe}: kind must be one of {', '.join(KINDS)}, not {kind!r}")
        return _build(KINDS[kind], values, recipe)


@contextmanager
def _refused(where: str) -> Iterator[None]:
    """What OmegaConf raises of values of the wrong kind, as a `ConfigError`: there is no end to how."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:
        raise ConfigError(
            f"{where}: a list, a section or a value stands where another of them belongs, or refers to one "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def from_words(kind: type[Options], values: Mapping[str, Any], overrides: Sequence[str]) -> Options:
    """Options of any kind from given values and "key.path=value" words.

    Args:
        kind: a dataclass.
        values: by field.
        overrides: on top of them.

    Raises:
        ConfigError: for an unknown key (with the nearest valid name), a wrong type or value.
    """
    from omegaconf import OmegaConf

    check_values(values)
    with _refused(", ".join(overrides) or "the settings"):
        return _build(kind, OmegaConf.merge(OmegaConf.create(dict(values)), *map(_override, overrides)), "")


def to_words(options: Any) -> list[str]:
    """The "key.path=value" words of which `from_words` makes the same options; defaults are left out.

    Args:
        options: a dataclass.

    Example:
        >>> to_words(OptimConfig(lr=1e-3, betas=(0.9, 0.99)))
        ['lr=0.001', 'betas=[0.9, 0.99]']
    """
    words: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            words += _words_of(field.name, value)
    return words


def _words_of(key: str, value: Any) -> list[str]:
    if is_dataclass(value):
        return [f"{key}.{word}" for word in to_words(value)]
    if isinstance(value, Mapping) and value and all(re.fullmatch(r"[\w-]+", name) for name in value):
        return [word for name, part in value.items() for word in _words_of(f"{key}.{name}", part)]
    return [f"{key}={_written(value)}"]


def _written(value: Any) -> str:
    """A value as it stands in a word: JSON, which is YAML, and text without quotes where it needs none."""
    if isinstance(value, str):
        with suppress(ConfigError):
            if _override(f"value={value}").value == value:
                return value
    return json.dumps(value, ensure_ascii=False)


def _build(kind: type[Options], values: Any, where: str) -> Options:
    """Values as options; `where` they come from begins an error."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where = f"{where}: " if where else ""
    if OmegaConf.select(values, "student.targets", throw_on_missing=False) == "all":
        OmegaConf.update(values, "student.targets", ["all"])
    try:
        options: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}{_explain(error, values, kind)}") from None
    except ValueError as error:
        section = _culprit(OmegaConf.to_container(values), kind).rpartition(".")[0]
        where = where if str(error).startswith(section) else f"{where}{section}: "
        raise ConfigError(f"{where}{error}") from None
    check_values(asdict(options), where)  # `${a}{b}` may assemble another reference
    return options


def _override(override: str) -> Any:
    """One `key.path=value` as a nested mapping."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import KeyValidationError

    key, equals, value = override.partition("=")
    if not key or not equals:
        raise ConfigError(f"override {override!r}: write key=value, as in optim.lr=1e-4")
    try:
        check_yaml(value)
        check_override(key, value)
        return OmegaConf.from_dotlist([override])
    except ConfigError:
        raise
    except KeyValidationError:  # to YAML a "?" begins a key
        raise ConfigError(f"override {override[:80]!r}: a key in it is no text; quote the value") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"override {override[:80]!r}: the value is not valid YAML") from None


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, as a run folder keeps it; `load` reads it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def with_checksum(text: str) -> str:
    """A resolved recipe with a last line that tells whether it is still what a run wrote."""
    checksum = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{text}{END_LINE} BLAKE2b: {checksum}\n"


def read_resolved(path: Path) -> Recipe:
    """The recipe of a run folder, which states every key.

    Raises:
        ConfigError: for a file that was changed, or cut off, for instance by a full disk: the missing keys
            would silently get their defaults. Files of earlier versions, without `END_LINE`, must have the
            last key.
    """
    from omegaconf import OmegaConf

    text = path.read_text(encoding="utf-8", errors="replace")
    recipe, end, checksum = text.partition(END_LINE)
    if not end:
        values = _read(str(path), seen=()) if text.endswith("\n") else OmegaConf.create({})
        last = _last_key(KINDS.get(str(OmegaConf.select(values, "kind")), DistillRecipe))
        if OmegaConf.select(values, last, default=...) is ...:
            raise ConfigError(
                f"{path} is cut off (a full disk?): give the run's own recipe again, as in `distill train "
                f"RECIPE key=value --resume {path.parent} --override`"
            )
    elif checksum.strip() and text != with_checksum(recipe):  # earlier versions had none
        raise ConfigError(
            f"{path} is not as the run wrote it (damaged, or changed by hand): give the run's own recipe "
            f"again, as in `distill train RECIPE key=value --resume {path.parent} --override`"
        )
    return load(str(path))


def _last_key(kind: type[Any]) -> str:
    """The last key of a recipe, such as "dat.lr"."""
    last = fields(kind)[-1].name
    section: type[Any] = get_type_hints(kind)[last]
    return f"{last}.{_last_key(section)}" if hasattr(section, "__dataclass_fields__") else last


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What differs, as `key: old -> new`."""
    return differing_values(asdict(old), asdict(new))


def differing_values(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs in nested mappings, as `key.path: old -> new`."""
    flat_old, flat_new = flat(old), flat(new)
    keys = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"{key}: {flat_old.get(key)} -> {flat_new.get(key)}"
        for key in keys
        if flat_old.get(key) != flat_new.get(key)
    ]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by `key.path`; tuples as lists."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def _read(recipe: str, seen: tuple[str, ...]) -> Any:
    """The values of a recipe file on top of those it extends."""
    import yaml
    from omegaconf import OmegaConf

    path = _find(recipe, seen[-1] if seen else None)
    if str(path) in seen:
        raise ConfigError(f"{path}: extends itself, through {' -> '.join([*seen, str(path)])}")
    if len(seen) > _MAX_EXTENDS:
        raise ConfigError(f"{path}: more than {_MAX_EXTENDS} recipes extend one another")
    try:
        text = read_bytes(path, MAX_YAML).decode("utf-8")
        check_yaml(text)
        check_text(text, str(path))
        values: Any = OmegaConf.create(text)
    except (ConfigError, OSError):
        raise
    except DamagedFile as error:
        raise ConfigError(error) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f", line {line + 1}" if line is not None else ""
        raise ConfigError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not OmegaConf.is_dict(values):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    base = values.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: extends names one recipe or file, not {base}")
    values = _with_variant(values)
    return values if base is None else OmegaConf.merge(_read(base, (*seen, str(path))), values)


def _with_variant(values: Any) -> Any:
    """What one recipe or command line states, with the values that its `distortion.variant` stands for.

    A variant thus overrides the numbers of recipes that are extended, and numbers next to it override it.
    """
    from omegaconf import OmegaConf

    section = values.get("distortion")
    name = section.get("variant") if OmegaConf.is_dict(section) else None
    if not isinstance(name, str) or name not in VARIANTS:  # an unknown variant is refused later
        return values
    own = {key: getattr(VARIANTS[name], key) for key in ("snr_db", "pitch_cents", "band_scaler")}
    return OmegaConf.merge({"distortion": own}, values)


def _find(recipe: str, parent: str | None) -> Path:
    """Path of a recipe: a file, first looked for next to its parent, or a shipped one."""
    candidates = [Path(recipe)] if parent is None else [Path(parent).parent / recipe, Path(recipe)]
    for path in candidates:
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    shipped = resources.files("distill.recipes") / f"{recipe}.yaml"
    if shipped.is_file():
        return Path(str(shipped))
    where = "" if parent is None else f"{parent}: extends: "
    if Path(recipe).suffix in (".yaml", ".yml"):
        raise ConfigError(f"{where}recipe {recipe}: no such file")
    raise ConfigError(f"{where}unknown recipe {recipe!r}{_nearest(recipe, recipe_names())}")


def _nearest(name: str, names: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f": did you mean {prefix + close[0]!r}?" if close else f"; choose from {', '.join(sorted(names))}"


def _explain(error: Any, values: Any, kind: type[Any]) -> str:
    """One line of an OmegaConf error: the full key, what is wrong, the nearest valid key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError

    reason = str(error).splitlines()[0]
    key = getattr(error, "full_key", None) or _culprit(OmegaConf.to_container(values), kind)
    if isinstance(error, ConfigKeyError) and key:
        parent, dot, last = key.rpartition(".")
        schema: Any = OmegaConf.structured(kind)
        section: Any = OmegaConf.select(schema, parent) if parent else schema
        return f"unknown key {key!r}{_nearest(last, [str(name) for name in section], parent + dot)}"
    default = OmegaConf.select(OmegaConf.structured(kind), key) if key else None
    if isinstance(default, Sequence) and not isinstance(default, str):
        example = list(default) or ["a.tsv", "b.tsv"]
        reason = f"expected a list, as in [{', '.join(map(str, example))}]"
    elif "ListConfig" in reason:
        reason = f"expected a list in brackets, as in '{key}=[1,2]'"
    if "is not a subclass of" in reason:
        reason = f"a section of keys was expected, not one value ({reason.rpartition('value: ')[2]})"
    return f"{key}: {reason}" if key else reason


def _culprit(values: Any, kind: type[Any], path: tuple[str, ...] = ()) -> str:
    """The first key whose value alone is refused, for errors that do not name it; "" if none is."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in values.items():
        nested = value
        for name in reversed((*path, str(key))):
            nested = {name: nested}
        try:
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), nested))
        except (OmegaConfBaseException, ValueError):
            inner = (*path, str(key))
            return _culprit(value, kind, inner) if isinstance(value, dict) else ".".join(inner)
    return ".".join(path)
