//! Typed reads of settings. A read never stops at a problem: it notes it and goes on, so that an
//! operator sees everything that is wrong at once. Defaults are those declared in
//! [`known`](super::known).

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::{DefaultValue, Problem, Service, SettingsError, Source};

/// Reads settings and collects what is wrong with them. Read everything, then [`Reader::finish`].
#[derive(Debug)]
#[must_use = "problems are reported by `finish`"]
pub struct Reader<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source, problems: Vec<Problem>) -> Reader<'a> {
        Reader { source, problems }
    }

    /// The value, or `None` when it is not set or does not parse. The parser's error text is shown;
    /// for a secret, it must not quote parts of what it was given.
    pub fn optional<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.read_with(name, str::parse)
    }

    /// The value, or the declared default when it is not set or does not parse.
    pub fn value<T>(&mut self, name: &str) -> T
    where
        T: FromStr<Err: Display>,
    {
        self.read_or_default(name, None, str::parse)
    }

    /// The same for a setting whose default is each service's own.
    pub fn value_of<T>(&mut self, name: &str, service: Service) -> T
    where
        T: FromStr<Err: Display>,
    {
        self.read_or_default(name, Some(service), str::parse)
    }

    /// The value; it is a problem when it is not set. `None` means that [`Reader::finish`] fails.
    pub fn required<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        if self.source.value(name).is_none() {
            self.problems.push(Problem::Missing {
                name: name.to_owned(),
                expected: self.expected(name).to_owned(),
            });
        }
        self.optional(name)
    }

    /// A duration with its unit, such as `500ms`, `10s` or `3d`.
    pub fn duration(&mut self, name: &str) -> Duration {
        self.read_or_default(name, None, humantime::parse_duration)
    }

    /// A whole number that must not be below 1.
    pub fn at_least_one<T>(&mut self, name: &str) -> T
    where
        T: FromStr<Err: Display> + From<u8> + PartialOrd + Copy,
    {
        let value = self.value(name);
        if value < T::from(1) {
            self.problem(name, "must be at least 1");
        }
        value
    }

    /// A switch: `on` or `true`, `off` or `false`.
    pub fn switch(&mut self, name: &str) -> bool {
        self.read_or_default(name, None, |text| match text {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            _ => Err("neither on nor off"),
        })
    }

    /// Whether there is a value, be it right or wrong.
    pub fn is_set(&self, name: &str) -> bool {
        self.source.value(name).is_some()
    }

    /// Notes that a value is refused although it parses: out of range, or not together with another
    /// one. `reason` reads on from the setting and its value: "must be at least 1h".
    pub fn problem(&mut self, name: &str, reason: impl Display) {
        let value = self.shown(name);
        self.problems.push(Problem::Refused {
            value,
            reason: reason.to_string(),
        });
    }

    /// The end of reading.
    ///
    /// # Errors
    /// Everything that is wrong, unknown settings included.
    pub fn finish(self) -> Result<(), SettingsError> {
        SettingsError::new(self.problems)
    }

    /// [`Reader::finish`] for settings put together from reads that may have failed.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn finish_with<S>(self, settings: Option<S>) -> Result<S, SettingsError> {
        self.finish()?;
        Ok(settings.expect("a read that returns None notes a problem"))
    }

    /// A declaration without a default that parses is a mistake in [`known`](super::known), which
    /// the tests of the services find by reading with nothing set.
    fn read_or_default<T, E: Display>(
        &mut self,
        name: &str,
        service: Option<Service>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.read_with(name, &parse).unwrap_or_else(|| {
            let setting = self.source.setting(name);
            let default = setting.and_then(|setting| setting.default.text(service));
            let default = default.unwrap_or_else(|| panic!("{name} has no default"));
            parse(default).unwrap_or_else(|error| panic!("the default of {name}: {error}"))
        })
    }

    fn read_with<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        debug_assert!(
            self.source.setting(name).is_some(),
            "{name} is not declared in settings/known.rs"
        );
        let (text, _) = self.source.value(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let mut reason = error.to_string();
                if self.is_secret(name) {
                    reason = reason.replace(&text, "(not shown)");
                } else if may_hold_a_password(&text) {
                    "must not name a user or a password".clone_into(&mut reason);
                }
                self.problems.push(Problem::Invalid {
                    value: self.shown(name),
                    expected: self.expected(name).to_owned(),
                    reason,
                });
                None
            }
        }
    }

    /// The setting and its value for an error text.
    fn shown(&self, name: &str) -> String {
        match self.source.value(name) {
            Some((text, place)) if self.is_secret(name) || may_hold_a_password(&text) => {
                format!("{place} (value not shown)")
            }
            Some((text, place)) => format!("{place} is {text:?}"),
            None => match self.source.setting(name).map(|setting| setting.default) {
                None | Some(DefaultValue::Required) => format!("{name} is not set"),
                Some(default) => format!("{name} is not set (default {default})"),
            },
        }
    }

    fn expected(&self, name: &str) -> &'static str {
        self.source
            .setting(name)
            .map_or("a value", |setting| setting.expected)
    }

    /// A setting that is not declared may be a secret.
    fn is_secret(&self, name: &str) -> bool {
        self.source
            .setting(name)
            .is_none_or(|setting| setting.secret)
    }
}

/// Of a value that is no secret where it is right: people write addresses as `user:password@host`.
fn may_hold_a_password(text: &str) -> bool {
    text.contains('@')
}
