"""A page in the browser to try a model on: drop pictures, move sliders, click on a box to see what the model looked at.

    samdetr-demo --model outputs/digits
    samdetr-demo --model outputs/digits --compare_with OTHER

Works without a network where the model is a folder.
"""

from ..demo import UploadLimits
from .messages import CommandParser, add_message_arguments, plain_messages


def main(description: str | None = __doc__) -> None:
    parser = CommandParser(description)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--compare_with", metavar="MODEL", help="a second model, shown beside the first")
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default an accelerator where there is one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all of your network; default: %(default)s")
    parser.add_argument("--port", type=int, help="default: a free one from 7860 on")
    for name, value in vars(UploadLimits()).items():
        parser.add_argument(f"--max_{name}", type=type(value), default=value, help="default: %(default)s")
    add_message_arguments(parser)
    args = parser.parse_args()

    with plain_messages(parser, args.verbose, args.debug):
        limits = UploadLimits(**{name: getattr(args, f"max_{name}") for name in vars(UploadLimits())})
        from ..demo.page import ServedModel, serve  # here, for Gradio takes seconds to import

        models = [ServedModel(model, args.device) for model in (args.model, args.compare_with) if model is not None]
        serve(models, limits, args.host, args.port)


if __name__ == "__main__":
    main()
