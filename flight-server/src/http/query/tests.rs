use arrow::datatypes::DataType;

use super::*;

#[test]
fn parameters_have_the_type_that_loses_nothing() {
    for (text, expected) in [
        ("1", DataType::Int64),
        ("9223372036854775807", DataType::Int64),
        ("9223372036854775808", DataType::Decimal128(38, 0)),
        ("12.50", DataType::Float64),
        ("1e3", DataType::Float64),
        ("0.1234567890123456789", DataType::Decimal128(38, 19)),
        ("\"1\"", DataType::Utf8),
        ("null", DataType::Utf8),
        ("true", DataType::Boolean),
    ] {
        let array = parameter(&whole(text).unwrap()).unwrap();
        assert_eq!((array.data_type(), array.len()), (&expected, 1), "{text}");
    }
    for bad in ["[1]", "{}", "1.2345678901234567e3", "1e999", &"1".repeat(40)] {
        assert!(parameter(&whole(bad).unwrap()).is_err(), "{bad}");
    }
}

#[test]
fn a_body_says_what_it_asks() {
    let text = r#"{"sql": "SELECT $1", "parameters": [1], "format": "csv"}"#;
    let asked = asked(text, "application/json").unwrap();
    assert_eq!((asked.sql.as_str(), asked.format), ("SELECT $1", Some(Format::Csv)));
    assert_eq!(asked.parameters.unwrap().num_columns(), 1);
    for (text, word) in [
        ("[]", "object"),
        (r#"{"sql": 1}"#, "text"),
        (r#"{"sql": "SELECT 1", "parameters": {"a": 1}}"#, "list"),
        (r#"{"sql": "SELECT 1", "parameters": [[1]]}"#, "parameter 1"),
        (r#"{"query": "SELECT 1"}"#, "query"),
        (r#"{"sql": "SELECT 1""#, "line 1"),
        (r#"{"sql": "SELECT 1", "format": "xml"}"#, "xml"),
    ] {
        let error = super::asked(text, "application/json").unwrap_err();
        assert!(error.message().contains(word), "{text}: {}", error.message());
    }
    let many = format!(r#"{{"sql": "SELECT 1", "parameters": [{}1]}}"#, "1,".repeat(PARAMETERS_MAX));
    assert_eq!(super::asked(&many, "application/json").unwrap_err().status().as_u16(), 413);
    assert_eq!(super::asked("SELECT 1", "application/sql").unwrap().sql, "SELECT 1");
    assert_eq!(super::asked("sql=1", "application/x-www-form-urlencoded").unwrap_err().status().as_u16(), 415);
}

#[test]
fn the_first_format_that_is_known_is_taken() {
    let accept = |text: &'static str| accepted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))]));
    assert_eq!(accepted(&HeaderMap::new()).unwrap(), Format::Json);
    assert_eq!(accept("*/*").unwrap(), Format::Json);
    assert_eq!(accept("text/html, Text/CSV;q=0.9, */*").unwrap(), Format::Csv);
    assert_eq!(accept("application/vnd.apache.arrow.stream").unwrap(), Format::Arrow);
    assert_eq!(accept("text/html").unwrap_err().status().as_u16(), 406);
}

fn batches(all: Vec<Result<RecordBatch>>) -> Batches {
    stream::iter(all).boxed()
}

async fn sent(format: Format, all: Vec<Result<RecordBatch>>) -> (String, bool) {
    let schema = Arc::new(Schema::new(vec![Field::new("n", arrow::datatypes::DataType::Int64, true)]));
    let mut encoder = Encoder::new(format, &schema, "").unwrap();
    let mut text = encoder.begin().unwrap();
    let sending = Sending { encoder, batches: batches(all), state: Next::Rows };
    let pieces: Vec<_> = stream::unfold(sending, Sending::next).collect().await;
    let is_whole = pieces.iter().all(|piece| piece.is_ok());
    pieces.into_iter().flatten().for_each(|piece| text.extend(piece));
    (String::from_utf8(text).unwrap(), is_whole)
}

fn numbers(values: Vec<i64>) -> Result<RecordBatch> {
    let column: ArrayRef = Arc::new(Int64Array::from(values));
    Ok(RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap())
}

#[tokio::test]
async fn an_answer_that_fails_in_the_middle_is_cut_off() {
    let broken = || vec![numbers(vec![1, 2]), Err(Error::unavailable("the disk is gone"))];
    let (text, is_whole) = sent(Format::Json, broken()).await;
    assert_eq!((text.as_str(), is_whole), ("[{\"n\":1},{\"n\":2}", false));
    let (text, is_whole) = sent(Format::Ndjson, broken()).await;
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((last["error"]["code"].as_str(), is_whole), (Some("unavailable"), false));
    let (text, is_whole) = sent(Format::Json, vec![numbers(vec![1]), numbers(vec![]), numbers(vec![2])]).await;
    assert_eq!((text.as_str(), is_whole), ("[{\"n\":1},{\"n\":2}]\n", true));
}
