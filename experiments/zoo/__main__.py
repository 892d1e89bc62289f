"""Writes README.md of this folder from the cards: python -m experiments.zoo."""

import sys

from experiments.zoo import catalogue
from experiments.zoo.cards import mistakes
from experiments.zoo.readme import readme


def main() -> int:
    """Check the cards and write the page; 1 if something is wrong with them, which is said in a line each."""
    wrong = [*mistakes()]
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        (catalogue.FOLDER / "README.md").write_text(readme(), "utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
