//! One line of comma-separated fields by the rules of Go's reader, which Docker's flags are read
//! with: a field in quotes may hold commas. Pure.

/// The fields of the first line.
pub fn record(text: &str) -> Result<Vec<String>, String> {
    let bytes = text.as_bytes();
    let wrong = |at: usize, reason: &str| {
        Err(format!("parse error on line 1, column {}: {reason}field", at + 1))
    };
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let mut field = Vec::new();
        if bytes.get(at) == Some(&b'"') {
            at += 1;
            loop {
                match (bytes.get(at), bytes.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        field.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), None | Some(b',' | b'\n')) => {
                        at += 1;
                        break;
                    }
                    (Some(b'"'), _) | (None, _) => {
                        return wrong(at, "extraneous or missing \" in quoted-");
                    }
                    (Some(byte), _) => {
                        field.push(*byte);
                        at += 1;
                    }
                }
            }
        } else {
            while let Some(byte) = bytes.get(at).filter(|byte| !matches!(byte, b',' | b'\n')) {
                if *byte == b'"' {
                    return wrong(at, "bare \" in non-quoted-");
                }
                field.push(*byte);
                at += 1;
            }
        }
        // Cut at ASCII only, so that it is still UTF-8.
        fields.push(String::from_utf8_lossy(&field).into_owned());
        if bytes.get(at) != Some(&b',') {
            return Ok(fields);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn as_gos_reader() {
        let is = |text: &str, fields: &[&str]| assert_eq!(record(text).unwrap(), fields, "{text}");
        is("a,b", &["a", "b"]);
        is("a,", &["a", ""]);
        is("name=n,\"driver-opt=a=b,c\"", &["name=n", "driver-opt=a=b,c"]);
        is("\"a\"\"b\",ü", &["a\"b", "ü"]);
        is("a\nb", &["a"]);
        for (text, words) in [
            ("a\"b", "parse error on line 1, column 2: bare \" in non-quoted-field"),
            ("\"a", "parse error on line 1, column 3: extraneous or missing \" in quoted-field"),
            ("\"a\"b", "parse error on line 1, column 3: extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(record(text).unwrap_err(), words, "{text}");
        }
    }
}
