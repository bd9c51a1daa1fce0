//! The little of JSON that a report needs.

use olmo_infer::internals::cli::json::json_string;

/// An object from keys and JSON values.
pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("{}:{value}", string(key))).collect();
    format!("{{{}}}", fields.join(","))
}

/// An array of JSON values.
pub fn array(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(","))
}

/// A number to six digits; `null` for infinity, NaN and `None`.
pub fn number(value: impl Into<Option<f64>>) -> String {
    match value.into().filter(|value| value.is_finite()) {
        Some(0.0) => String::from("0"),
        Some(value) => {
            let digits = 5 - value.abs().log10().floor() as i32;
            format!("{value:.*}", digits.clamp(0, 12) as usize)
        }
        None => String::from("null"),
    }
}

/// A whole number, or `null`.
pub fn integer(value: impl Into<Option<u64>>) -> String {
    value.into().map_or_else(|| String::from("null"), |value| value.to_string())
}

/// A string with its quotes.
pub fn string(text: &str) -> String {
    let mut out = Vec::new();
    json_string(&mut out, text).expect("memory takes it");
    String::from_utf8(out).expect("a string of JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json() {
        assert_eq!(number(51.23456789), "51.2346");
        assert_eq!(number(0.001234567), "0.00123457");
        assert_eq!(number(1234567.8), "1234568");
        assert_eq!((number(0.0), number(f64::NAN), number(None)), ("0".into(), "null".into(), "null".into()));
        assert_eq!(string("a\"\\\n"), r#""a\"\\\u000a""#);
        assert_eq!(object([("a", integer(1)), ("b", array([integer(None)]))]), r#"{"a":1,"b":[null]}"#);
    }
}
