//! The body of `POST /orders`, parsed into values of the domain. Pure.

use domain::{ProductId, Quantity};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::Problem;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlaceOrder {
    pub(super) product_id: ProductId,
    pub(super) quantity: Quantity,
}

/// The body's description for the document; parsing is done by hand, to name what is wrong.
#[derive(ToSchema)]
#[schema(as = PlaceOrder, rename_all = "camelCase")]
#[expect(dead_code, reason = "only described")]
pub(super) struct PlaceOrderBody {
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9._-]+$",
        example = "P-001"
    )]
    product_id: String,
    /// 1 if not given
    #[schema(value_type = i32, required = false, minimum = 1, maximum = 10_000, default = 1)]
    quantity: Option<i32>,
}

const PRODUCT_ID: &str = "productId";
const QUANTITY: &str = "quantity";

impl PlaceOrder {
    /// Parses a body. Fields it does not know are ignored: a newer client may send them.
    ///
    /// # Errors
    /// [`Problem::MalformedJson`] when it is no JSON, [`Problem::InvalidValue`] when it is, and the
    /// first field that is to blame.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let value = serde_json::from_slice(body).map_err(|error| Problem::MalformedJson {
            reason: error.to_string(),
        })?;
        let Value::Object(fields) = value else {
            return Err(Problem::InvalidValue {
                field: None,
                reason: "the body must be a JSON object".to_owned(),
            });
        };
        Ok(Self {
            product_id: product_id(&fields).map_err(|reason| invalid(PRODUCT_ID, &reason))?,
            quantity: quantity(&fields).map_err(|reason| invalid(QUANTITY, &reason))?,
        })
    }
}

fn product_id(fields: &Map<String, Value>) -> Result<ProductId, String> {
    match fields.get(PRODUCT_ID) {
        None => Err("is required".to_owned()),
        Some(Value::String(text)) => {
            ProductId::try_from(text.clone()).map_err(|error| error.to_string())
        }
        Some(_) => Err("must be a string".to_owned()),
    }
}

fn quantity(fields: &Map<String, Value>) -> Result<Quantity, String> {
    match fields.get(QUANTITY) {
        None => Ok(Quantity::ONE),
        // A number that is no i64 is a fraction or far out of range; -1 is as wrong and as clear.
        Some(Value::Number(number)) => {
            Quantity::try_from(number.as_i64().unwrap_or(-1)).map_err(|error| error.to_string())
        }
        Some(_) => Err("must be a number".to_owned()),
    }
}

fn invalid(field: &'static str, reason: &str) -> Problem {
    Problem::InvalidValue {
        field: Some(field),
        reason: format!("{field} {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<PlaceOrder, Problem> {
        PlaceOrder::parse(body.as_bytes())
    }

    fn blamed(body: &str) -> Option<&'static str> {
        match parse(body) {
            Err(Problem::InvalidValue { field, .. }) => field,
            other => panic!("{body} gives {other:?}"),
        }
    }

    #[test]
    fn quantity_is_optional_and_unknown_fields_are_ignored() {
        let order = parse(r#"{"productId":"P-001","colour":["red"]}"#).unwrap();
        assert_eq!(order.product_id.as_str(), "P-001");
        assert_eq!(order.quantity, Quantity::ONE);
        let order = parse(r#"{"quantity":10000,"productId":"P"}"#).unwrap();
        assert_eq!(order.quantity.get(), 10_000);
    }

    #[test]
    fn the_field_to_blame_is_named() {
        for body in [
            "{}",
            r#"{"productId":5}"#,
            r#"{"productId":null}"#,
            r#"{"productId":""}"#,
            r#"{"productId":"a b","quantity":0}"#,
        ] {
            assert_eq!(blamed(body), Some(PRODUCT_ID), "{body}");
        }
        for quantity in [
            "0",
            "-1",
            "10001",
            "1.5",
            "1e9",
            "99999999999999999999",
            r#""2""#,
            "null",
            "[]",
            "true",
        ] {
            let body = format!(r#"{{"productId":"P","quantity":{quantity}}}"#);
            assert_eq!(blamed(&body), Some(QUANTITY), "{body}");
        }
        assert_eq!(blamed("[]"), None);
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for body in ["", "{", "{'productId':'P'}", "\u{feff}{}", "{} {}"] {
            let problem = parse(body).unwrap_err();
            assert!(matches!(problem, Problem::MalformedJson { .. }), "{body}");
        }
        let latin1 = PlaceOrder::parse(b"{\"productId\":\"\xe9\"}").unwrap_err();
        assert!(matches!(latin1, Problem::MalformedJson { .. }));
    }
}
