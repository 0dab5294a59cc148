"""How the page looks: no fonts from elsewhere, and nothing of Gradio that a visitor has no use for."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
ACCENT = "#2171b5"

CSS = """
.gradio-container, .gradio-container > main { width: 100% !important; max-width: 1320px !important;
                                              margin: 0 auto !important; }
.gradio-container > main { padding: 20px 20px 48px !important; }
footer { display: none !important; }
#title h1 { font-size: 24px; margin: 0; }
#title p, #hint p, #notes p, .about p { color: var(--body-text-color-subdued); margin: 0; }
#notes p { color: #9a3412; }
.dark #notes p { color: #fdba74; }
#notes:not(:has(p)) { display: none; }
#files .wrap { font-size: 0; }
#files .wrap .or { display: none; }
#files .wrap::after { content: "Drop pictures here, or click to choose"; font-size: 14px; text-align: center; }
/* fitted as Gradio computes the place of a click, also where the picture is smaller than its frame */
.drawn img { cursor: crosshair; object-fit: contain !important; width: 100% !important; height: 100% !important; }
.drawn, #why { background: var(--background-fill-secondary); }
#why img { background: #fff; padding: 8px; }
"""


def theme() -> gr.themes.Base:
    """Plain and light, with the fonts of the visitor's own system."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=list(SANS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#f5f7fa",
        block_background_fill="#ffffff",
        block_border_width="1px",
        slider_color=ACCENT,
        button_primary_background_fill=ACCENT,
        button_primary_text_color="#ffffff",
    )
