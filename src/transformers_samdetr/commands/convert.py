"""Convert a checkpoint of SAM-DETR's authors to a folder that Transformers loads.

    samdetr-convert --checkpoint FILE.pth --output_dir outputs/sam-detr-r50

Which model it is, is read from the file; where an R50 file without stored arguments may be a DC5 model, say so with
--dilation or --no-dilation. Nothing in the file is run. The result is loaded and compared before the command ends.
"""

import argparse

from .messages import CommandParser


def main(description: str | None = __doc__) -> None:
    parser = CommandParser(description)
    parser.add_argument("--checkpoint", required=True, metavar="FILE.pth")
    parser.add_argument("--output_dir", required=True, help="folder of the converted model")
    parser.add_argument("--dilation", action=argparse.BooleanOptionalAction, help="DC5 (default: as in the file)")
    parser.add_argument("--licence", help="of the weights, for the model card (default: not stated)")
    parser.add_argument("--push_to_hub", metavar="REPO", help="Hub repository, USER/NAME, to upload to")
    parser.add_argument("--private", action="store_true", help="make the Hub repository private")
    args = parser.parse_args()
    with parser.plain_messages():
        from ..conversion import convert_checkpoint
        from ..hub import ModelCard, push_to_hub

        card = ModelCard(licence=args.licence, repo_id=args.push_to_hub)
        model, card = convert_checkpoint(args.checkpoint, args.output_dir, args.dilation, card)
        print(f"{card.name or 'A model of no preset'}. {card.source}")
        print(f"Written, loaded and compared: {args.output_dir} ({model.num_parameters():,} parameters)")
        if args.push_to_hub:
            print(f"Uploaded: {push_to_hub(args.output_dir, args.push_to_hub, private=args.private)}")


if __name__ == "__main__":
    main()
