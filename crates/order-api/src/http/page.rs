//! The query of `GET /orders`, parsed. Pure.

use actix_web::web::Query;
use domain::OrderId;

use super::problem::Problem;

/// Orders on a page when the client does not say.
const DEFAULT_LIMIT: u32 = 20;
/// Orders on a page at most.
const MAX_LIMIT: u32 = 100;

/// Which orders are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) limit: u32,
    /// The last order of the page before.
    pub(super) after: Option<OrderId>,
}

impl Page {
    /// Parses a query. Parameters it does not know are ignored.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`] and the parameter that is to blame.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_query(query)
            .map_err(|error| invalid(None, &error.to_string()))?;
        let mut page = Self {
            limit: DEFAULT_LIMIT,
            after: None,
        };
        for (name, value) in pairs.iter() {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok();
                    page.limit =
                        limit
                            .filter(|n| (1..=MAX_LIMIT).contains(n))
                            .ok_or_else(|| {
                                let reason =
                                    format!("must be a whole number from 1 to {MAX_LIMIT}");
                                invalid(Some("limit"), &reason)
                            })?;
                }
                "after" => {
                    let after = value.parse().map_err(|_| {
                        invalid(Some("after"), "must be the `next` of the previous page")
                    })?;
                    page.after = Some(after);
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

fn invalid(field: Option<&'static str>, reason: &str) -> Problem {
    Problem::InvalidValue {
        field,
        reason: format!("{} {reason}", field.unwrap_or("the query")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_optional_and_bounded() {
        let page = Page::parse("").unwrap();
        assert_eq!((page.limit, page.after), (20, None));
        assert_eq!(Page::parse("limit=100&colour=red").unwrap().limit, 100);
        for (query, blamed) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=", "limit"),
            ("limit=1.5", "limit"),
            ("after=", "after"),
            ("after=x", "after"),
        ] {
            let problem = Page::parse(query).unwrap_err();
            let Problem::InvalidValue { field, .. } = problem else {
                panic!("{query} gives {problem:?}");
            };
            assert_eq!(field, Some(blamed), "{query}");
        }
    }
}
