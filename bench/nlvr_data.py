"""NLVR as tables: what a model is trained on, or a labelled split to measure it on (docs/nlvr.md).

    python bench/nlvr_data.py train train-images.tar train-1000.tar OUT
    python bench/nlvr_data.py split dev.tar OUT --training train-1000.tar
"""

import argparse

from omma.data.nlvr.items import write_split, write_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    train = kinds.add_parser("train")
    train.add_argument("images", help="tar of the training pictures, no labels")
    train.add_argument("labelled", help="tar of those that people wrote sentences of")
    split = kinds.add_parser("split")
    split.add_argument("labelled")
    split.add_argument("--training", help="tar of the labelled training pictures, to tell known sentences")
    for kind in (train, split):
        kind.add_argument("out")
    args = parser.parse_args()
    made = write_training(args.images, args.labelled, args.out) if args.kind == "train" else (
        write_split(args.labelled, args.out, args.training))  # fmt: skip
    print(", ".join(f"{n:,} {name}" for name, n in made.items()), "in", args.out)


if __name__ == "__main__":
    main()
