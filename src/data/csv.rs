//! Comma-separated tables with a header (RFC 4180, also gzipped), read row by row, every error with its line.

use super::error::DataError;
use crate::fsio::At;
use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord, Trim};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Opens a file for reading; one that begins with gzip's two bytes is unpacked on the way.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, DataError> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).at(path, "open")?);
    let gzipped = file.fill_buf().at(path, "read")?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzipped { Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// A table that is being read.
pub struct Table {
    path: PathBuf,
    header: Vec<String>,
    reader: Reader<Box<dyn Read + Send>>,
    row: StringRecord,
    line: u64,
}

/// Cells that stand for a reading that is not there.
const MISSING: [&str; 8] = ["", "?", "nan", "NaN", "NAN", "NA", "null", "None"];

impl Table {
    /// Opens a CSV file, plain or gzipped, and reads its header.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::from_reader(path, Box::new(open(path)?))
    }

    /// A table from any reader; `name` stands for the path in errors.
    pub fn from_reader(name: &Path, reader: Box<dyn Read + Send>) -> Result<Self, DataError> {
        let reader = ReaderBuilder::new().trim(Trim::Headers).from_reader(reader);
        let mut table = Self { path: name.into(), header: vec![], reader, row: StringRecord::new(), line: 1 };
        let header = table.reader.headers().cloned().map_err(|e| table.fault(&e))?;
        table.header = header.iter().map(|h| h.trim_start_matches('\u{feff}').to_owned()).collect();
        if table.header.iter().all(String::is_empty) {
            return Err(DataError::line(name, 1, "the file is empty: its first line must name the columns"));
        }
        Ok(table)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Where a column stands, or `None` where there is none of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|h| h == name)
    }

    /// Where a column stands that must be there, once.
    pub fn column(&self, name: &str) -> Result<usize, DataError> {
        match self.header.iter().filter(|h| *h == name).count() {
            1 => Ok(self.find(name).unwrap_or_default()),
            0 => Err(DataError::line(
                &self.path,
                1,
                format!(
                    "there is no column '{name}'; the columns are: {}. Correct the name, or the file's first line",
                    self.header.join(", ")
                ),
            )),
            n => Err(DataError::line(&self.path, 1, format!("{n} columns are called '{name}'; give each a name of its own"))),
        }
    }

    /// Reads the next row; `false` at the end.
    pub fn advance(&mut self) -> Result<bool, DataError> {
        let more = self.reader.read_record(&mut self.row).map_err(|e| self.fault(&e))?;
        self.line = self.row.position().map_or(self.line, csv::Position::line);
        Ok(more)
    }

    /// The line on which the current row begins.
    #[must_use]
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// A cell of the current row.
    #[must_use]
    pub fn text(&self, column: usize) -> &str {
        self.row.get(column).unwrap_or_default()
    }

    /// A number of the current row; a missing reading is `None`.
    pub fn number(&self, column: usize) -> Result<Option<f64>, DataError> {
        let cell = self.text(column).trim();
        if MISSING.contains(&cell) {
            return Ok(None);
        }
        match cell.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Some(value)),
            _ => Err(self.wrong(column, "is no number; correct it, or leave the cell empty if the reading is missing")),
        }
    }

    /// A reading of the current row in single precision; a missing one is NaN.
    pub fn reading(&self, column: usize) -> Result<f32, DataError> {
        let Some(value) = self.number(column)? else { return Ok(f32::NAN) };
        // Parsed from the text once more, so that a value printed from an f32 comes back as the same f32.
        let single = self.text(column).trim().parse().unwrap_or(value as f32);
        if single.is_finite() { Ok(single) } else { Err(self.wrong(column, "is too large for a reading")) }
    }

    /// An error about a cell of the current row.
    #[must_use]
    pub fn wrong(&self, column: usize, what: &str) -> DataError {
        let cell: String = self.text(column).chars().take(40).collect();
        let name = self.header.get(column).map_or("?", String::as_str);
        DataError::line(&self.path, self.line, format!("column '{name}': '{cell}' {what}"))
    }

    fn fault(&self, error: &csv::Error) -> DataError {
        let line = error.position().map_or(self.line, csv::Position::line);
        let message = match error.kind() {
            ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
                "the row has {len} cells where the header has {expected_len}; add or remove cells, and put text that holds commas into quotes"
            ),
            ErrorKind::Utf8 { .. } => "the row is not UTF-8 text; save the file as UTF-8".into(),
            ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "the compressed file is cut short; copy it again".into(),
            other => format!("the row cannot be read: {other:?}"),
        };
        DataError::line(&self.path, line, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn table(text: &str) -> Result<Table, DataError> {
        Table::from_reader(Path::new("a.csv"), Box::new(std::io::Cursor::new(text.to_owned())))
    }

    fn all(text: &str) -> Result<Vec<f32>, DataError> {
        let mut table = table(text)?;
        let column = table.column("x")?;
        let mut out = vec![];
        while table.advance()? {
            out.push(table.reading(column)?);
        }
        Ok(out)
    }

    #[test]
    fn faults_name_line_column_and_way_out() {
        for (text, line, words) in [
            ("a,b\n1,2\n", 1, "no column 'x'; the columns are: a, b"),
            ("x,x\n1,2\n", 1, "2 columns are called 'x'"),
            ("x,y\n1,2\n3\n", 3, "1 cells where the header has 2"),
            ("x,y\n1,2\n3,4,5\n", 3, "3 cells"),
            ("x,y\n1,2\nten,2\n", 3, "column 'x': 'ten' is no number"),
            ("x,y\n\"1\",\"two\nlines\"\n1e39,2\n", 4, "too large"),
            ("x\ninf\n", 2, "no number"),
            ("", 1, "empty"),
        ] {
            let error = all(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a.csv:{line}: ")) && error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn missing_readings_are_nan() {
        let got = all("\u{feff}x,y\n1.5,0\n,0\nnan,0\n?,0\n").unwrap();
        assert_eq!(got[0], 1.5);
        assert!(got[1..].iter().all(|v| v.is_nan()) && got.len() == 4);
    }

    #[test]
    fn gzipped_and_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv.gz");
        let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        gz.write_all(b"x\n").unwrap();
        (0..1000).for_each(|i| writeln!(gz, "{i}").unwrap());
        let bytes = gz.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let mut table = Table::open(&path).unwrap();
        let mut rows = 0;
        while table.advance().unwrap() {
            rows += 1;
        }
        assert_eq!(rows, 1000);
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let mut table = Table::open(&path).unwrap();
        let error = loop {
            match table.advance() {
                Ok(true) => {}
                Ok(false) => panic!("read to the end"),
                Err(e) => break e.to_string(),
            }
        };
        assert!(error.contains("cut short"), "{error}");
    }
}
