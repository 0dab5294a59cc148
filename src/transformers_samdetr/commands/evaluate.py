"""Measures a model on the evaluation set of a data set: AP, errors, confusion, pictures.

    samdetr-evaluate --model outputs/digits --data digits --report outputs/digits/evaluation.html
    samdetr-evaluate --model outputs/digits --model outputs/earlier --data digits
    accelerate launch --num_processes 2 -m transformers_samdetr.commands.evaluate --model FOLDER --data FOLDER

Prints the table and writes metrics.json and figures to --output_dir; with --report also one page with all results.
With two models, the second is compared with the first on the same pictures (a paired test).
"""

from .data_arguments import add_data_arguments
from .messages import CommandParser


def main(description: str | None = __doc__) -> None:
    parser = CommandParser(description)
    parser.add_argument("--model", required=True, action="append", help="folder or Hub name; twice to compare two")
    add_data_arguments(parser, required=True)
    parser.add_argument("--output_dir", default="outputs/evaluation", help="default: %(default)s")
    parser.add_argument("--report", metavar="PAGE.html", help="write a page with all numbers and pictures")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures of a step on each process")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures, for each process")
    parser.add_argument("--image_size", type=int, help="fixed height and width in pixels; default: as saved")
    parser.add_argument("--max_detections", type=int, nargs=3, default=(1, 10, 100), help="default: 1 10 100")
    parser.add_argument("--threshold", type=float, help="score for the confusion matrix; default: of the highest F1")
    parser.add_argument("--worst", type=int, default=4, help="pictures of each kind of error in the report")
    args = vars(parser.parse_args())
    args["columns"] = dict(args["columns"]) if args["columns"] else None
    if len(args["model"]) > 2:
        parser.error(f"--model was given {len(args['model'])} times: compare two models at a time.")
    args["model"], args["other_model"] = (*args["model"], None)[:2]
    with parser.plain_messages():
        from rich.console import Console

        from ..evaluation.evaluate import METRICS_FILE, evaluate_saved_model  # seconds, which --help need not wait for
        from ..evaluation.evaluation_page import comparison_table, result_tables
        from ..training.processes import start_processes

        state = start_processes()
        result, other = evaluate_saved_model(**args)
        if state.is_main_process:
            Console().print(result_tables(result))
            if other is not None:
                Console().print(comparison_table(result, other, (args["model"], args["other_model"])))
            page = f" and {args['report']}" if args["report"] else ""
            print(f"Written: {args['output_dir']}/{METRICS_FILE}{page}")


if __name__ == "__main__":
    main()
