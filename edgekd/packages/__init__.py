"""The hosts that take a bundle otherwise than by CMake: one file a host; the name you type is the file you open.

Each exports one subclass of `edgekd.package.Package`. The folder beside it, of the same name, holds the files of that
host: copied as they are, but for `.j2` files, which are Jinja2 templates.
"""
