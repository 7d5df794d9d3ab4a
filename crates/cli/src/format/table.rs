//! Columns padded as Go's tabwriter pads them for Docker: three spaces between, at least ten wide.

/// Lines of cells, divided by tabs, as one text with aligned columns.
pub fn align(lines: &[String]) -> String {
    align_at_least(lines, 10)
}

/// As [`align`], with another least width. The last cell of a line is of no column: it widens none.
pub fn align_at_least(lines: &[String], least: usize) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![vec![0; columns]; rows.len()];
    for column in 0..columns {
        let is_in = |row: &Vec<&str>| column + 1 < row.len();
        let mut row = 0;
        // A column is a run of adjacent lines that have a cell ended by a tab there.
        while row < rows.len() {
            let end = rows[row..].iter().position(|r| !is_in(r)).map_or(rows.len(), |n| row + n);
            let width = rows[row..end].iter().map(|r| r[column].chars().count()).max();
            let width = (width.unwrap_or(0) + 3).max(least);
            widths[row..end].iter_mut().for_each(|line| line[column] = width);
            row = end.max(row + 1);
        }
    }
    let mut out = String::new();
    for (cells, widths) in rows.iter().zip(&widths) {
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if index + 1 < cells.len() {
                let pad = widths[index].saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker() {
        let lines =
            ["CONTAINER ID\tIMAGE\tNAMES".to_owned(), "e04b859ee404\tbusybox\tc1".to_owned()];
        assert_eq!(align(&lines), "CONTAINER ID   IMAGE     NAMES\ne04b859ee404   busybox   c1\n");
        assert_eq!(align(&["a".to_owned(), "b\tc".to_owned()]), "a\nb         c\n");
    }
}
