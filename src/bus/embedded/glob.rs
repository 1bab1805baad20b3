//! Redis's glob patterns, matched in bounded time.
//!
//! Redis's own matcher was exponential in the number of stars until 7.0.9 (CVE-2022-36021). This one only ever
//! goes back to the last star: at most `pattern.len() * text.len()` steps.

/// True if `text` matches `pattern`, as `PSUBSCRIBE` understands it: `*`, `?`, `[abc]`, `[^a-c]`, `\x`.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            last_star = Some((p, t));
        } else if let Some(taken) = pattern.get(p..).and_then(|rest| take(rest, text[t])) {
            p += taken;
            t += 1;
        } else if let Some((after, from)) = last_star {
            // The earlier star takes one byte more. Going back to a star before it could gain nothing.
            last_star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Length of the pattern's first element if it stands for `byte`; `None` if not, or if the pattern is at its end.
fn take(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => {
            let (hit, taken) = class(rest, byte);
            hit.then_some(1 + taken)
        }
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// Whether `byte` is in the class that begins after its `[`, and the length up to and with its `]`. As in Redis,
/// a class that nobody closed ends with the pattern.
fn class(body: &[u8], byte: u8) -> (bool, usize) {
    let negated = body.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match &body[at..] {
            [] => return (hit != negated, at),
            [b']', ..] => return (hit != negated, at + 1),
            [b'\\', escaped, ..] => {
                hit |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                hit |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                hit |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{matches, take};

    /// Every way to split is tried: obviously right, and exponential.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            ([], _) => text.is_empty(),
            (_, []) => false,
            (_, [byte, tail @ ..]) => {
                take(pattern, *byte).is_some_and(|taken| naive(&pattern[taken..], tail))
            }
        }
    }

    #[test]
    fn follows_redis() {
        // Each row was seen on redis-server 7.0.15: PSUBSCRIBE, then PUBLISH's count.
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"h[\]]llo", "h]llo", true),
            (r"tail\", r"tail\", true),
            ("open[ab", "opena", true),
            ("open[ab", "openc", false),
            ("open[", "openx", false),
            ("[^]x", "ax", true),
            ("[]x", "x", false),
            ("[a-]", "a", true),
            ("[a-]x", "]x", false),
            ("a**b", "ab", true),
            ("*a*b", "xxaxxb", true),
            ("*a*b", "xxaxxbc", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product() {
        let pattern = b"*a".repeat(127);
        let text = vec![b'a'; 126];
        assert!(
            !matches(&pattern, &text),
            "an exponential matcher would not come back"
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model(pattern in r"[ab*?\[\]\\^-]{0,10}", text in r"[ab\]\\^-]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn takes_any_bytes(pattern: Vec<u8>, text: Vec<u8>) {
            matches(&pattern, &text);
        }
    }
}
