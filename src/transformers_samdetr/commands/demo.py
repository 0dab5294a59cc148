"""A page in the browser to try a model on: drop a picture, move the sliders, see what the model looked at.

    samdetr-demo --model outputs/digits
    samdetr-demo --model outputs/digits --examples one.jpg two.jpg

Works without a network where the model is a folder.
"""

from .messages import CommandParser, check_file


def build_parser(description: str | None = __doc__) -> CommandParser:
    parser = CommandParser(description)
    parser.checks["examples"] = check_file
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--examples", nargs="+", default=[], metavar="PICTURE", help="to click on")
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default an accelerator where there is one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all of your network; default: %(default)s")
    parser.add_argument("--port", type=int, help="default: a free one from 7860 on")
    parser.add_argument("--max_megabytes", type=float, default=25, help="of an upload; default: %(default)s")
    parser.add_argument("--max_megapixels", type=float, default=50, help="of a picture; default: %(default)s")
    parser.add_argument("--max_waiting", type=int, default=32, help="requests in the queue; default: %(default)s")
    return parser


def main(description: str | None = __doc__) -> None:
    parser = build_parser(description)
    args = parser.parse_args()
    with parser.plain_messages():
        from ..demo import Demo, serve  # here, for Gradio takes seconds to import

        demo = Demo(args.model, args.device, args.max_megabytes, args.max_megapixels)
        serve(demo, args.examples, args.host, args.port, args.max_waiting)


if __name__ == "__main__":
    main()
