"""Sphinx: Markdown as it stands in docs/, nothing loaded from elsewhere."""

import proxy_engine

project = "proxy-engine"
author = "the proxy-engine authors"
release = version = proxy_engine.__version__
html_title = f"proxy-engine {release}"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
nitpicky = True
smartquotes = False  # "--flag" is two hyphens
highlight_language = "none"
suppress_warnings = [
    "misc.highlighting_failure",  # examples with "..." in them
    "myst.header",  # a page may begin a table of contents at any depth
]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "sidebar_hide_name": False,
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b6b4f", "color-brand-content": "#0b6b4f"},
    "dark_css_variables": {"color-brand-primary": "#4fd1a5", "color-brand-content": "#4fd1a5"},
}
