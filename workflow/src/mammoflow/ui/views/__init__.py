"""One module a page, each with ``show(project, pages)``. Text that is not ours goes through ``fields.plain``."""
