//! Selectors of labels and fields, as far as our clients write them. Touches nothing.

use kube::core::{Expression, Selector};

/// `a.b=c,d=e`: what our clients write.
pub fn fields(text: &str) -> Vec<(String, String)> {
    assert!(!text.contains("!="), "the API server of the tests knows no such fields: {text}");
    let pairs = text.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(path, wanted)| (format!("/{}", path.replace('.', "/")), wanted.to_owned())).collect()
}

/// `a=b,c!=d,e,!f`: what our clients write.
pub fn selector(text: &str) -> Selector {
    let one = |part: &str| {
        if let Some((key, value)) = part.split_once("!=") {
            return Expression::NotEqual(key.to_owned(), value.to_owned());
        }
        match (part.split_once('='), part.strip_prefix('!')) {
            (Some((key, value)), _) => {
                Expression::Equal(key.to_owned(), value.trim_start_matches('=').to_owned())
            }
            (None, Some(key)) => Expression::DoesNotExist(key.to_owned()),
            (None, None) => Expression::Exists(part.to_owned()),
        }
    };
    assert!(
        !text.contains(" in ") && !text.contains('('),
        "the API server of the tests knows no sets: {text}"
    );
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}
