"""The report: numbers, refusals and pictures, as HTML and as Markdown."""

from depth_distill.export.bundle.report import Report, RuntimeRow, Section, runtime_section, write_report


def test_both_forms_say_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    rows = [
        RuntimeRow("int8", "Tool", "1.2", 0.03771, 1.0004, 0.00123, 6.54),
        RuntimeRow("fp16", "Tool", error="loading\nno <half> precision", simulator=True),
    ]
    sections = [runtime_section(rows, "cap 15 m"), Section("Look", pictures=["a.png"])]
    write_report(tmp_path, Report("A & B", ["It works."], ["careful"], sections))
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "| int8 | Tool 1.2 | 0.0377 | 1.000 | 0.00123 | 6.5 |" in text
    assert "<td>0.0377</td><td>1.000</td>" in page
    assert "A &amp; B" in page
    assert "refused: no &lt;half&gt; precision" in page
    assert "| fp16 | Tool (simulator) | refused: no \\<half\\> precision |" in text
    assert "data:image/png;base64,cGljdHVyZQ==" in page
    assert "![a.png](a.png)" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_a_column_is_of_text_or_of_numbers(tmp_path):
    rows = [("recipe", "equalize", "-"), ("fold", "30 batch norms folded", "-1.5"), ("folded twice", "no", "2.5")]
    rows += [("refused", "by the tool chain")] * 3
    write_report(tmp_path, Report("t", [], [], [Section("s", ("", "", "mm"), rows)]))
    page = (tmp_path / "report.html").read_text()
    for cell in ("equalize", "30 batch norms folded"):
        assert f'<td class="text">{cell}</td>' in page
    for cell in ("-", "-1.5"):
        assert f"<td>{cell}</td>" in page


def test_a_cell_beyond_the_header_is_not_lost(tmp_path):
    write_report(tmp_path, Report("t", [], [], [Section("s", ("name",), [("a", "beyond")])]))
    assert "<td>beyond</td>" in (tmp_path / "report.html").read_text()


def test_what_names_contain_is_shown_as_it_is(tmp_path):
    name = "a|b`c`<script>[x](http://y)*d*\n# e\\"
    section = Section(name, (name,), [(name,)], (name,))
    write_report(tmp_path, Report(name, [name], [name], [section]))
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<script>" not in page
    shown = r"a\|b\`c\`\<script\>\[x\](http://y)\*d\* # e\\"
    places = (f"# {shown}", shown, f"- {shown}", f"## {shown}", shown, f"| {shown} |", f"| {shown} |")
    assert [line for line in text.splitlines() if "script" in line] == list(places)
