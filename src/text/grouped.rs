//! What several VMs say alike, said once with their names. Pure.

use super::words::name_list;

/// Names that stand before "and N more".
const NAMED: usize = 3;

/// Names with what they say → each text once, with the names that say it, in the order of their first appearance.
pub fn by_text<'a>(said: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<(Vec<&'a str>, &'a str)> {
    let mut groups: Vec<(Vec<&str>, &str)> = Vec::new();
    for (name, text) in said {
        match groups.iter_mut().find(|(_, known)| *known == text) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], text)),
        }
    }
    groups
}

/// `h1, h2, h3 and 37 more: text`, one for each text.
pub fn sentences<'a>(said: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    by_text(said).into_iter().map(|(names, text)| format!("{}: {text}", name_list(&names, NAMED))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_said_once_with_its_names() {
        let said = [("h1", "down"), ("h2", "slow"), ("h3", "down"), ("h4", "down"), ("h5", "down")];
        assert_eq!(sentences(said), ["h1, h3, h4 and 1 more: down", "h2: slow"]);
        assert!(sentences([]).is_empty());
    }
}
