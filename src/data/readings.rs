//! Recordings as they come from a CSV file: series of rows at the sensor's own rate.

use super::csv::Table;
use super::error::DataError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Which columns of a table mean what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The readings, a column a channel.
    pub channels: Vec<String>,
    /// What the rows show.
    pub label: Option<String>,
    /// Who or what was recorded.
    pub subject: Option<String>,
    /// Which recording a row belongs to; without it, all of a subject's rows in a file are one.
    pub series: Option<String>,
    /// When a row was taken.
    pub time: Option<String>,
    /// What the time column counts.
    #[serde(default)]
    pub time_unit: TimeUnit,
}

/// What a time column counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Seconds.
    #[default]
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
    /// Text such as `2013-01-31T06:00:00Z`; a zone is not looked at.
    Iso,
}

/// The column that keeps the parts of a recording apart in files of our own: a test split may hold several of one.
const PART: &str = "tinyllm.part";

/// The label of a row that has none.
pub const UNLABELLED: u32 = u32::MAX;

/// One recording: rows in the order of time.
#[derive(Clone, Debug)]
pub struct Series {
    /// The file it stands in.
    pub path: PathBuf,
    /// What the series column says, or the file's name.
    pub id: String,
    /// Which part of that recording this is; empty if it is all of it.
    pub part: String,
    /// What the subject column says, or nothing.
    pub subject: String,
    /// Readings, a `Vec` a channel; a missing one is NaN.
    pub channels: Vec<Vec<f32>>,
    /// An index into [`Recordings::labels`] a row, or [`UNLABELLED`].
    pub labels: Vec<u32>,
    /// Seconds, a row each; empty without a time column.
    pub times: Vec<f64>,
    /// The line of the file each row stands on.
    pub lines: Vec<u64>,
}

impl Series {
    /// Rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Some of the rows as a recording of their own.
    #[must_use]
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        let whole = rows == (0..self.len());
        Self {
            path: self.path.clone(),
            id: self.id.clone(),
            part: if whole { self.part.clone() } else { format!("{}@{}", self.part, rows.start) },
            subject: self.subject.clone(),
            channels: self.channels.iter().map(|c| c[rows.clone()].to_vec()).collect(),
            labels: self.labels[rows.clone()].to_vec(),
            times: self.times.get(rows.clone()).unwrap_or_default().to_vec(),
            lines: self.lines[rows].to_vec(),
        }
    }
}

/// Everything read from some files.
#[derive(Default)]
pub struct Recordings {
    /// In order of first appearance.
    pub series: Vec<Series>,
    /// The labels as they stand in the files, each with the place where it was first seen.
    pub labels: Vec<(String, PathBuf, u64)>,
    /// Which series a (file, subject, series) is.
    index: HashMap<[String; 3], usize>,
    label_index: HashMap<String, u32>,
}

impl Columns {
    /// Reads a table to its end and adds its rows to `into`.
    ///
    /// Of the label, subject and series columns those that are not there are errors when `strict` (training), and left
    /// out otherwise (running). The channels and the time must be there always.
    pub fn read(&self, table: &mut Table, strict: bool, into: &mut Recordings) -> Result<(), DataError> {
        let optional = |name: &Option<String>| match name {
            Some(name) if strict => table.column(name).map(Some),
            Some(name) => Ok(table.find(name)),
            None => Ok(None),
        };
        let (label, subject, series) = (optional(&self.label)?, optional(&self.subject)?, optional(&self.series)?);
        let time = self.time.as_ref().map(|name| table.column(name)).transpose()?;
        let channels = self.channels.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
        let part = table.find(PART);
        let path = table.path().to_owned();
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        into.index.clear();
        while table.advance()? {
            let line = table.line();
            let subject = subject.map_or("", |c| table.text(c).trim());
            let id = series.map_or(name.as_str(), |c| table.text(c).trim());
            let part = part.map_or("", |c| table.text(c));
            let key = [subject, id, part].map(str::to_owned);
            let at = *into.index.entry(key).or_insert_with_key(|key| {
                into.series.push(Series {
                    path: path.clone(),
                    subject: key[0].clone(),
                    id: key[1].clone(),
                    part: key[2].clone(),
                    channels: vec![vec![]; channels.len()],
                    labels: vec![],
                    times: vec![],
                    lines: vec![],
                });
                into.series.len() - 1
            });
            if let Some(column) = time {
                let seconds = self.time_unit.seconds(table, column)?;
                if into.series[at].times.last().is_some_and(|&last| last >= seconds) {
                    let what = format!("is not later than the row before it in series '{}'; sort the rows by time", into.series[at].id);
                    return Err(table.wrong(column, &what));
                }
                into.series[at].times.push(seconds);
            }
            let label = match label.map(|c| table.text(c).trim()) {
                None | Some("") => UNLABELLED,
                Some(text) => match into.label_index.get(text) {
                    Some(&index) => index,
                    None => {
                        let index = into.labels.len() as u32;
                        into.labels.push((text.to_owned(), path.clone(), line));
                        into.label_index.insert(text.to_owned(), index);
                        index
                    }
                },
            };
            let series = &mut into.series[at];
            for (values, &column) in series.channels.iter_mut().zip(&channels) {
                values.push(table.reading(column)?);
            }
            series.labels.push(label);
            series.lines.push(line);
        }
        if into.series.is_empty() {
            return Err(DataError::file(&path, "there is no row below the header"));
        }
        Ok(())
    }

    /// Reads several files.
    pub fn read_files(&self, files: &[PathBuf], strict: bool) -> Result<Recordings, DataError> {
        let mut all = Recordings::default();
        for file in files {
            self.read(&mut Table::open(file)?, strict, &mut all)?;
        }
        Ok(all)
    }

    /// Writes recordings as CSV in these columns, so that [`read`](Self::read) gives the same rows again.
    pub fn write(&self, out: &mut dyn std::io::Write, series: &[Series], labels: &[(String, PathBuf, u64)]) -> std::io::Result<()> {
        type Cell<'a> = Box<dyn Fn(&Series, usize) -> String + 'a>;
        let part = series.iter().any(|s| !s.part.is_empty()).then_some(PART);
        let label = |s: &Series, i: usize| labels.get(s.labels[i] as usize).map_or_else(String::new, |l| l.0.clone());
        let mut columns: Vec<(Option<&str>, Cell<'_>)> = vec![
            (self.series.as_deref(), Box::new(|s, _| s.id.clone())),
            (part, Box::new(|s, _| s.part.clone())),
            (self.subject.as_deref(), Box::new(|s, _| s.subject.clone())),
            (self.label.as_deref(), Box::new(label)),
            (self.time.as_deref(), Box::new(|s, i| self.time_unit.text(s.times[i]))),
        ];
        for (k, name) in self.channels.iter().enumerate() {
            let text = |v: f32| if v.is_nan() { String::new() } else { v.to_string() };
            columns.push((Some(name), Box::new(move |s, i| text(s.channels[k][i]))));
        }
        // One column may tell more than one thing: the label may be the subject.
        let mut seen = std::collections::HashSet::new();
        columns.retain(|c| c.0.is_some_and(|name| seen.insert(name)));
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(columns.iter().filter_map(|c| c.0))?;
        for s in series {
            for i in 0..s.len() {
                csv.write_record(columns.iter().map(|c| c.1(s, i)))?;
            }
        }
        csv.flush()
    }
}

impl TimeUnit {
    const fn per_second(self) -> f64 {
        match self {
            Self::S | Self::Iso => 1.0,
            Self::Ms => 1e3,
            Self::Us => 1e6,
            Self::Ns => 1e9,
        }
    }

    fn seconds(self, table: &Table, column: usize) -> Result<f64, DataError> {
        if self == Self::Iso {
            return iso_seconds(table.text(column).trim())
                .ok_or_else(|| table.wrong(column, "is no time such as 2013-01-31T06:00:00Z; correct it, or the recipe's time_unit"));
        }
        let value = table.number(column)?.ok_or_else(|| table.wrong(column, "is missing; every row needs its time"))?;
        Ok(value / self.per_second())
    }

    fn text(self, seconds: f64) -> String {
        if self == Self::Iso {
            return iso_text(seconds);
        }
        // The number that is read back as these very seconds: a whole one, or a neighbour of the product.
        let product = seconds * self.per_second();
        let choices = [product.round(), product, product.next_down(), product.next_up()];
        choices.into_iter().find(|c| c / self.per_second() == seconds).unwrap_or(product).to_string()
    }
}

/// `2013-01-31T06:00:00.5Z` (or a blank for the T) as seconds since 1970.
fn iso_seconds(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "0:0:0"));
    let time = time.trim_end_matches('Z').split('+').next()?;
    let mut date = date.splitn(3, '-').map(|p| p.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut parts = time.splitn(3, ':').map(|p| p.parse::<f64>().ok().filter(|v| (0.0..=60.0).contains(v)));
    let (hour, minute, second) = (parts.next()??, parts.next().unwrap_or(Some(0.0))?, parts.next().unwrap_or(Some(0.0))?);
    Some(days(year, month, day) as f64 * 86_400.0 + hour * 3600.0 + minute * 60.0 + second)
}

fn iso_text(seconds: f64) -> String {
    let (day, rest) = (seconds.div_euclid(86_400.0) as i64, seconds.rem_euclid(86_400.0));
    let mut year = 1970 + day.div_euclid(366);
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (2..=12).take_while(|&m| days(year, m, 1) <= day).last().unwrap_or(1);
    let (hour, minute) = ((rest / 3600.0).floor(), (rest % 3600.0 / 60.0).floor());
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{}Z", day - days(year, month, 1) + 1, {
        let s = rest % 60.0;
        if s.fract() == 0.0 { format!("{s:02}") } else { format!("{s:09.6}") }
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years counted from March, so that the leap day is a year's last.
    let y = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    365 * y + y / 4 - y / 100 + y / 400 + (153 * from_march + 2) / 5 + day - 1 - 719_468
}

/// The CSV files that some names stand for: files themselves, and folders with everything below them.
pub fn files(base: &Path, names: &[String], endings: &[&str]) -> Result<Vec<PathBuf>, DataError> {
    use crate::fsio::At;
    fn walk(dir: &Path, endings: &[&str], out: &mut Vec<PathBuf>) -> Result<(), DataError> {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(dir).at(dir, "read")?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().at(dir, "read")?;
        entries.sort();
        for path in entries {
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            if path.is_dir() {
                walk(&path, endings, out)?;
            } else if endings.iter().any(|e| name.ends_with(e)) {
                out.push(path);
            }
        }
        Ok(())
    }
    let mut out = vec![];
    for name in names {
        let path = base.join(name);
        if path.is_dir() {
            let before = out.len();
            walk(&path, endings, &mut out)?;
            if out.len() == before {
                return Err(DataError::file(&path, format!("the folder holds no file that ends in {}", endings.join(", "))));
            }
        } else if path.is_file() {
            out.push(path);
        } else {
            return Err(DataError::file(&path, "there is no such file or folder; paths in a recipe are relative to the recipe"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(time_unit: TimeUnit) -> Columns {
        let name = |s: &str| Some(s.to_owned());
        Columns { channels: vec!["x".into()], label: name("l"), subject: name("who"), series: name("s"), time: name("t"), time_unit }
    }

    fn read(text: &str, unit: TimeUnit) -> Result<Recordings, DataError> {
        let mut out = Recordings::default();
        let mut table = Table::from_reader(Path::new("a.csv"), Box::new(std::io::Cursor::new(text.to_owned())))?;
        columns(unit).read(&mut table, true, &mut out)?;
        Ok(out)
    }

    #[test]
    fn rows_are_gathered_by_series_and_written_back() {
        let text = "s,who,l,t,x\n1,a,up,0,0.1\n2,a,up,0,7\n1,a,down,20,\n1,a,,40,-1.08361\n";
        let got = read(text, TimeUnit::Ms).unwrap();
        assert_eq!(got.series.len(), 2);
        let first = &got.series[0];
        assert_eq!((first.id.as_str(), first.subject.as_str(), first.len()), ("1", "a", 3));
        assert_eq!(first.labels, [0, 1, UNLABELLED]);
        assert_eq!(first.lines, [2, 4, 5]);
        assert_eq!(first.times, [0.0, 0.02, 0.04]);
        let mut out = vec![];
        columns(TimeUnit::Ms).write(&mut out, &got.series, &got.labels).unwrap();
        let again = read(std::str::from_utf8(&out).unwrap(), TimeUnit::Ms).unwrap();
        assert_eq!(again.series[0].channels[0][2], -1.08361);
        assert!(again.series[0].channels[0][1].is_nan());
        assert_eq!(again.series[0].times, first.times);
        assert_eq!(again.series[0].labels, first.labels);
    }

    #[test]
    fn time_goes_forward() {
        let error = read("s,who,l,t,x\n1,a,up,5,0.1\n1,a,up,5,7\n", TimeUnit::S).err().unwrap().to_string();
        assert!(error.starts_with("a.csv:3: column 't'") && error.contains("sort the rows"), "{error}");
    }

    #[test]
    fn written_times_are_read_back_the_same() {
        for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
            for i in 0..1000 {
                let value = 1_498_120_112_345.0 + f64::from(i) * 9.97;
                let seconds = value / unit.per_second();
                let again: f64 = unit.text(seconds).parse().unwrap();
                assert_eq!(again / unit.per_second(), seconds, "{unit:?} {value}");
            }
        }
        assert_eq!(TimeUnit::Ms.text(1_498_120_112_345.0 / 1e3), "1498120112345");
    }

    #[test]
    fn dates_become_seconds_and_come_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2013-01-01T06:00:00Z", 1_357_020_000.0),
            ("2000-02-29T23:59:59Z", 951_868_799.0),
            ("2016-12-31T12:30:00Z", 1_483_187_400.0),
        ] {
            assert_eq!(iso_seconds(text), Some(seconds), "{text}");
            assert_eq!(iso_text(seconds), text);
        }
        assert_eq!(iso_seconds("2013-01-01 06:00"), Some(1_357_020_000.0));
        assert_eq!(iso_seconds("yesterday"), None);
        assert_eq!(iso_seconds("2013-13-01T00:00:00Z"), None);
    }
}
