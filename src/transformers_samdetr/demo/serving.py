"""Starts the page."""

from collections.abc import Sequence

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError("The demo is a Gradio page: pip install 'transformers-samdetr[demo]'") from error

from .limits import Limits
from .look import CSS, theme
from .page import build_page
from .served_model import ServedModel


def serve(
    models: Sequence[ServedModel],
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    wait: bool = True,
) -> tuple[str, object]:
    """Shows the page until it is interrupted.

    Args:
        models: one, or several to compare.
        limits: of uploads.
        host: address to listen on; `"0.0.0.0"` is for all of a network, and there is no password.
        port: or None for a free one from 7860 on.
        wait: whether to stay until the process is interrupted.

    Raises:
        OSError: there is no such port to listen on.

    Returns:
        The address, and the page, whose `close()` ends it.
    """
    limits = limits or Limits()
    page = build_page(models, limits)
    # one picture at a time: a model takes all cores
    page.queue(max_size=limits.waiting, default_concurrency_limit=1)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            max_file_size=f"{limits.megabytes}mb",
            ssr_mode=False,
            footer_links=[],
            theme=theme(),
            css=CSS,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        where = "no port from 7860 on is" if port is None else f"port={port} is not"
        raise OSError(f"{where} free on {host}: give another one.") from error
    if wait:
        print(f"The demo is at {address} until Ctrl-C.", flush=True)
        page.block_thread()
    return address, page


__all__ = ["ServedModel", "serve"]
