from tests.edge.collectors.reference import PAGE, renewed


def test_the_collectors_page_is_what_the_collectors_say() -> None:
    page = PAGE.read_text("utf-8")
    assert renewed(page) == page, "the collectors have changed: run `make docs`"
