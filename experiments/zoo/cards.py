"""The cards of the weights: what they are, how they were made, what they reach, and the command behind every figure."""

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from datamodules.errors import InputError
from experiments.zoo import catalogue

LARGEST, LARGEST_SUM = 4 * 2**20, 30 * 2**20  # bytes of a file of weights, and of all
ON_SAMPLE = "data=sample"  # in the command of a figure: it can be had anywhere, of photographs that scikit-image brings
# Of the command that trained a network, the groups that a training which goes on from its weights needs too.
_RECIPE = ("experiment", "model", "degradation", "loss", "procedure")

Text = Annotated[str, Field(min_length=1)]
Command = Annotated[str, Field(pattern=r"^python run\.py ")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Figure(_Strict):
    """A measurement of the file."""

    data: Text
    conditions: Text | None = None  # of the inputs, where the data do not say them
    protocol: Text  # option of conf/protocol/
    psnr: float  # dB
    ssim: float | None = None
    input: float | None = None  # PSNR of the input, or of its bicubic enlargement, in dB
    command: Command


class Card(_Strict):
    """What is known of a file of weights."""

    network: Text  # option of conf/model/, or the class
    parameters: PositiveInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the file
    recipe: Annotated[list[Command], Field(min_length=1)]  # the commands that made it, in their order
    data: Text
    licence: Text  # of the data
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]  # the first is that of the file
    steps: PositiveInt
    core_hours: PositiveFloat
    hardware: Text
    figures: Annotated[list[Figure], Field(min_length=1)]
    use: Text
    limits: Text

    @property
    def overrides(self) -> list[str]:
        """Of the command that made it, those that say what network it is, and for which task."""
        words = shlex.split(self.recipe[-1])
        return [word for word in words if _key(word).partition(".")[0] in _RECIPE]


def card(name: str) -> Card:
    """The card of a name.

    Raises:
        InputError: it is missing, or a key of it is missing, unknown, or of another type.
    """
    file = catalogue.FOLDER / f"{name}.yaml"
    try:
        return Card.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        wrong = {"missing": "is missing", "extra_forbidden": "is no key of a card"}.get(first["type"], first["msg"])
        raise InputError(f"{file}: {key}: {wrong}: compare it with `Card` in {Path(__file__).name}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}): every file has a card") from error


def mistakes() -> Iterator[str]:
    """What is wrong with the zoo, a line each: cards, checksums, sizes."""
    files = {name: catalogue.named(name) for name in catalogue.names()}
    for alone in sorted({file.stem for file in catalogue.FOLDER.glob("*.yaml")} - {*files}):
        yield f"{alone}.yaml: a card without {alone}.safetensors"
    for name, file in files.items():
        size = file.stat().st_size
        if not catalogue.WORD.fullmatch(name):
            yield f"{file.name}: no name: expected letters, digits, - and _, which weights= takes for one"
        if size > LARGEST:
            yield f"{file.name}: {size:,} bytes, expected at most {LARGEST:,}"
        if not {"scales", "inputs", "seed"} <= catalogue.about(name).keys():
            yield f"{file.name}: does not say what its network takes: write it by task=export formats=[safetensors]"
        try:
            about = card(name)
        except InputError as error:
            yield str(error)
            continue
        if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != about.sha256:
            yield f"{name}.yaml: sha256: found {about.sha256}, that of {file.name} is {found}"
        if not any(ON_SAMPLE in shlex.split(figure.command) for figure in about.figures):
            yield f"{name}.yaml: figures: none has a command with {ON_SAMPLE}, which can be run anywhere"
    total = sum(file.stat().st_size for file in files.values())
    if total > LARGEST_SUM:
        yield f"{total:,} bytes of weights, expected at most {LARGEST_SUM:,}"


_OF_RECIPES = ("train", "lr_find", "preview")


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """The command line of a training from `weights=NAME`, with the overrides of its network where it names none.

    What another task needs is in the file of the weights; a training, and what looks at one, needs loss, degradation
    and optimiser besides. Of a group for which another option is given only the scale is kept: that of the network.

    Raises:
        InputError: for a name that is none.
    """
    given = {_key(word): word.partition("=")[2] for word in arguments}
    weights = given.get("weights", "null")
    word = catalogue.WORD.fullmatch(weights) and weights != "null" and not Path(weights).exists()
    ours = bool(word) or weights.startswith(catalogue.PREFIX)
    if not ours or {"model", "experiment"} & given.keys() or given.get("task", "train") not in _OF_RECIPES:
        return [*arguments]
    own = {word: _key(word) for word in card(catalogue.weights_file(weights).stem).overrides}
    own = {word: key for word, key in own.items() if key == "degradation.scale" or key.partition(".")[0] not in given}
    return [*(word for word, key in own.items() if key not in given), *arguments]


def _key(word: str) -> str:
    """The key of an override; "" of another word, such as an option."""
    return word.lstrip("+~").partition("=")[0] if "=" in word else ""
