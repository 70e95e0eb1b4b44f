use arrow::array::{
    BinaryArray, Decimal128Array, Float64Array, Int32Builder, Int64Array, ListArray, MapBuilder, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int32Type};
use arrow::ipc::reader::StreamReader;

use super::*;

fn batch() -> RecordBatch {
    let decimals = Decimal128Array::from(vec![Some(10_i128.pow(20) + 1), None]).with_precision_and_scale(38, 2);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    map.keys().append_value(7);
    map.values().append_value("é\"");
    map.append(true).unwrap();
    map.append(false).unwrap();
    let columns: [(&str, ArrayRef); 8] = [
        ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
        ("d", Arc::new(decimals.unwrap())),
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, 0.5]))),
        ("s", Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), None]))),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None]).with_timezone("+00:00"))),
        ("b", Arc::new(BinaryArray::from(vec![Some(b"\x00\xff".as_slice()), None]))),
        ("l", Arc::new(list)),
        ("m", Arc::new(map.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn all(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
    let mut encoder = Encoder::new(format, &batches[0].schema(), "lz4").unwrap();
    let mut bytes = encoder.begin().unwrap();
    batches.iter().for_each(|batch| bytes.extend(encoder.encode(batch).unwrap()));
    bytes.extend(encoder.end().unwrap());
    bytes
}

#[test]
fn json_loses_nothing() {
    let batch = batch();
    let text = String::from_utf8(all(Format::Json, &[batch.clone(), batch.slice(1, 1)])).unwrap();
    let first = r#"{"n":9223372036854775807,"d":"1000000000000000000.01","f":"NaN","s":"a,\"b\"\n","#;
    assert!(text.starts_with(&format!("[{first}")), "{text}");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[0]["t"], "1970-01-01T00:00:01.500Z");
    assert_eq!(rows[0]["b"], "AP8=");
    assert_eq!(rows[0]["l"], serde_json::json!([1, null]));
    assert_eq!(rows[0]["m"], serde_json::json!({ "7": "é\"" }));
    assert_eq!(rows[1], rows[2]);
    assert_eq!(rows[1]["f"], 0.5);
    assert!(["n", "d", "s", "t", "b", "l", "m"].iter().all(|name| rows[1].get(name) == Some(&serde_json::Value::Null)));
}

#[test]
fn ndjson_has_a_line_for_each_row_and_json_an_array_for_none() {
    let batch = batch();
    let text = String::from_utf8(all(Format::Ndjson, &[batch.clone(), batch.clone()])).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() == 4, "{text}");
    text.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    assert_eq!(all(Format::Json, &[batch.slice(0, 0)]), b"[]\n");
}

#[test]
fn csv_quotes_what_must_be_and_has_a_header_without_rows() {
    let batch = batch();
    let text = String::from_utf8(all(Format::Csv, &[batch.clone(), batch.slice(1, 1)])).unwrap();
    let expected = "n,d,f,s,t,b,l,m\n\
        9223372036854775807,1000000000000000000.01,NaN,\"a,\"\"b\"\"\n\",1970-01-01T00:00:01.500Z,AP8=,\
        \"[1,null]\",\"{\"\"7\"\":\"\"é\\\"\"\"\"}\"\n\
        ,,0.5,,,,,\n\
        ,,0.5,,,,,\n";
    assert_eq!(text, expected);
    assert_eq!(all(Format::Csv, &[batch.slice(0, 0)]), b"n,d,f,s,t,b,l,m\n");
}

#[test]
fn arrow_comes_back_as_it_was() {
    let sent = [batch(), batch().slice(1, 1)];
    let bytes = all(Format::Arrow, &sent);
    let read: Vec<_> = StreamReader::try_new(bytes.as_slice(), None).unwrap().collect::<Result<_, _>>().unwrap();
    // NaN is not equal to itself.
    let others = [0, 1, 3, 4, 5, 6, 7];
    assert_eq!(read.len(), 2);
    for (read, sent) in read.iter().zip(&sent) {
        assert_eq!(read.project(&others).unwrap(), sent.project(&others).unwrap());
    }
}

#[test]
fn two_columns_of_a_name_are_no_json() {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let schema: SchemaRef = Arc::new(Schema::new(vec![field("id"), field("n"), field("id")]));
    for format in [Format::Json, Format::Ndjson] {
        let error = Encoder::new(format, &schema, "").err().unwrap();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("\"id\""), "{error}");
    }
    Encoder::new(Format::Csv, &schema, "").unwrap();
}
