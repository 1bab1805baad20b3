use super::*;
use proptest::prelude::*;

fn select(page: &str, series: &str) -> Result<Vec<(String, f64)>, String> {
    let page = Page::parse(page.as_bytes(), &series.parse().unwrap()).map_err(|error| error.to_string())?;
    let words = |series: Series| {
        let labels: Vec<String> = series.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        (labels.join(","), series.value)
    };
    Ok(page.series.into_iter().map(words).collect())
}

/// The page has exactly one such series, of this value.
fn is(page: &str, series: &str, expected: f64) {
    match select(page, series).unwrap().as_slice() {
        [(_, value)] => assert!(value.total_cmp(&expected).is_eq(), "{series}: {value}"),
        other => panic!("{other:?}"),
    }
}

/// What clients of many languages write, and what the two specifications give as their examples.
#[test]
fn both_formats_are_read() {
    let prometheus = "# HELP http_requests_total The total number of HTTP requests.\n\
        # TYPE http_requests_total counter\n\
        http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\
        http_requests_total{method=\"post\",code=\"400\"}    3 1395066363000\n\
        \n\
        # Escaping in label values:\n\
        msdos_file_access_time_seconds{path=\"C:\\\\DIR\\\\FILE.TXT\",error=\"Cannot find file:\\n\\\"FILE.TXT\\\"\"} 1.458255915e9\n\
        metric_without_timestamp_and_labels 12.47\n\
        something_weird{problem=\"division by zero\"} +Inf -3982045\n\
        java{area=\"heap\",} 7.0E7\n\
        empty{} 1\n\
        \t spaced { a = \"b\" , c = \"d\" } \t 5 \n\
        braces{path=\"/u/{id}\",query=\"a=1,b=2\"} 6\n\
        # TYPE rpc summary\n\
        rpc{quantile=\"0.5\"} 4773\n\
        rpc_sum 1.7560473e+07\n\
        rpc_count 2693\n";
    is(prometheus, "http_requests_total{code=\"200\"}", 1027.0);
    is(prometheus, "http_requests_total{code!=\"200\"}", 3.0);
    is(prometheus, "metric_without_timestamp_and_labels", 12.47);
    is(prometheus, "something_weird", f64::INFINITY);
    is(prometheus, "java{area=\"heap\"}", 7.0e7);
    is(prometheus, "empty{none=\"\"}", 1.0);
    is(prometheus, "spaced{a=\"b\",c=\"d\"}", 5.0);
    is(prometheus, "braces{path=\"/u/{id}\"}", 6.0);
    is(prometheus, "rpc_count", 2693.0);
    assert_eq!(
        select(prometheus, "msdos_file_access_time_seconds").unwrap()[0].0,
        "error=Cannot find file:\n\"FILE.TXT\",path=C:\\DIR\\FILE.TXT"
    );
    assert_eq!(select(prometheus, "nothing").unwrap(), []);
    assert_eq!(select(prometheus, "java{area=\"other\"}").unwrap(), []);

    let openmetrics = "# TYPE acme_http_router_request_seconds summary\n\
        # UNIT acme_http_router_request_seconds seconds\n\
        # HELP acme_http_router_request_seconds Latency.\n\
        acme_http_router_request_seconds_sum{path=\"/api/v1\",method=\"GET\"} 9036.32\n\
        # TYPE go_goroutines gauge\n\
        go_goroutines 69\n\
        # TYPE process_cpu_seconds counter\n\
        process_cpu_seconds_total{x=\"1\"} 4.20072246e+06 1520879607.789 # {trace_id=\"oHg\"} 0.67 1520879607.7\n\
        process_cpu_seconds_created{x=\"1\"} 1.5e9\n\
        # TYPE foo histogram\n\
        foo_bucket{le=\"+Inf\"} 17 # {} 1\n\
        # EOF\n";
    is(openmetrics, "go_goroutines", 69.0);
    is(openmetrics, "process_cpu_seconds_total", 4_200_722.46);
    is(openmetrics, "foo_bucket{le=\"+Inf\"}", 17.0);
}

#[test]
fn the_type_says_what_a_rate_may_be_made_of() {
    let page = "# TYPE g gauge\ng 1\n# TYPE c_total counter\nc_total 1\n# TYPE om counter\nom_total 1\n\
        # TYPE h histogram\nh_bucket{le=\"1\"} 1\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_count 1\n\
        # TYPE u untyped\nu 1\nnone 1\n";
    let kind = |name: &str| Page::parse(page.as_bytes(), &name.parse().unwrap()).unwrap().kind;
    for (name, expected) in [
        ("g", Some(Kind::Gauge)),
        ("c_total", Some(Kind::Cumulative)),
        ("om_total", Some(Kind::Cumulative)),
        ("h_bucket", Some(Kind::Cumulative)),
        ("s", Some(Kind::Gauge)),
        ("s_count", Some(Kind::Cumulative)),
        ("u", Some(Kind::Unknown)),
        ("none", None),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
}

#[test]
fn a_metric_that_was_not_used_yet_is_told_from_one_that_is_not_there() {
    let is_unused = |page: &str| {
        let page = Page::parse(page.as_bytes(), &"a{b=\"c\"}".parse().unwrap());
        page.unwrap().is_unused()
    };
    assert!(is_unused("# TYPE a gauge\n"));
    assert!(!is_unused("# HELP a b\nb 1\n"));
    assert!(!is_unused("# TYPE a gauge\na{b=\"d\"} 1\n"));
    assert!(!is_unused("# TYPE a gauge\na{b=\"c\"} 1\n"));
    // It is `a_total` that was meant.
    assert!(!is_unused("# TYPE a counter\na_total{b=\"c\"} 1\n# EOF\n"));
    assert!(is_unused("# TYPE a gauge\n# TYPE a_b gauge\na_b 1\n"));
}

#[test]
fn what_is_not_such_a_page_is_refused_as_a_whole() {
    let refused = |page: &str| select(page, "a").unwrap_err();
    for (page, line) in [
        ("<html><body>hello</body></html>\n", 1),
        ("{\"a\": 1}\n", 1),
        ("a 1\nb three\n", 2),
        ("a 1\nb\n", 2),
        ("a 1\nb{c=\"d} 1\n", 2),
        ("a 1\nb{c=d} 1\n", 2),
        ("a 1\nb{c=\"d\" e=\"f\"} 1\n", 2),
        ("a 1\nb{c=\"d\"} 1 2 3\n", 2),
        ("a 1\n1b 1\n", 2),
        ("a 1\r\n", 1),
        ("a 1_000\n", 1),
        ("a 0x10\n", 1),
        ("a 1\n{\"b\"} 1\n", 2),
    ] {
        let error = refused(page);
        assert!(
            error.starts_with(&format!("line {line} is neither")),
            "{page:?}: {error}"
        );
    }
    // Each cut of this page but the whole is a number that is too small, or a series too few.
    assert_eq!(
        refused("a{b=\"c\"} 199"),
        "line 1: the page ends in the middle of a line"
    );
    assert_eq!(
        refused("a 1\n# EOF\na 2\n"),
        "line 3: the page goes on after `# EOF`"
    );
    assert_eq!(
        refused("a{b=\"1\",c=\"2\"} 1\na{c=\"2\",b=\"1\"} 2\n"),
        "line 2: this series is there twice"
    );
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(Page::parse(&gzip, &"a".parse().unwrap()), Err(PageError::NotText));
    let many: Vec<String> = (0..=MAX_SERIES).map(|n| format!("a{{b=\"{n}\"}} 1\n")).collect();
    let many = many.concat();
    assert_eq!(
        refused(&many),
        format!("more than {MAX_SERIES} series match: add labels")
    );
    // What is not asked for may be there as often as it likes.
    assert_eq!(select(&many.replace('a', "x"), "a").unwrap(), []);
    // A line is shown in part, cut between two letters.
    let long = refused(&format!("{}\n", "é".repeat(1000)));
    assert!(long.len() < 300 && long.ends_with('…'), "{long}");
}

#[test]
fn selectors_are_written_as_in_promql() {
    for text in [
        "a",
        "a{}",
        " a { b = \"c\" , d != \"e\", } ",
        "job:rate5m{le=\"+Inf\"}",
        "a{b=\"\\\"\\n\\\\\"}",
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector), "{text}");
    }
    for text in [
        "",
        "{}",
        "a{b}",
        "a{b=c}",
        "a{b=~\"c\"}",
        "a{b=\"c\"",
        "a b",
        "1a",
        "rate(a[1m])",
        "a{b=\"c\"}[1m]",
    ] {
        assert_eq!(text.parse::<Selector>(), Err(SelectorError), "{text}");
    }
}

proptest! {
    #[test]
    fn no_page_makes_it_panic(page in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Page::parse(&page, &"a".parse().unwrap());
    }

    /// Lines made of what a page is made of, in any order.
    #[test]
    fn nearly_right_pages_do_not_either(parts in proptest::collection::vec(
        prop_oneof!["[ab_]", "[0-9.e+-]{1,4}", Just("{".into()), Just("}".into()), Just("\"".into()), Just("=".into()),
            Just(",".into()), Just(" ".into()), Just("\\".into()), Just("#".into()), Just("# TYPE ".into()),
            Just("# EOF".into()), Just("\n".into()), Just("é".into())], 0..60)) {
        let _ = Page::parse(parts.concat().as_bytes(), &"a".parse().unwrap());
        let _ = parts.concat().parse::<Selector>();
    }

    /// What is written by the specification's rules is read as it was meant.
    #[test]
    fn every_label_and_value_is_read_back(value in any::<f64>().prop_filter("NaN is no value", |v| !v.is_nan()),
                                          label in "\\PC*|[\\\\\"n\n]{0,8}") {
        let escaped = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let page = format!("a{{l=\"{escaped}\"}} {value:e}\n");
        let page = Page::parse(page.as_bytes(), &"a".parse().unwrap()).unwrap();
        let labels = if label.is_empty() { vec![] } else { vec![("l".to_owned(), label)] };
        prop_assert_eq!(page.series, vec![Series { labels, value }]);
    }
}
