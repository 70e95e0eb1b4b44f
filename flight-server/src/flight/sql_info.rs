//! What the server says about itself (GetSqlInfo).
//!
//! Tools ask for everything at once and stumble over holes, so every code has a value, and in the type that the
//! drivers cast it to: limits and the default isolation are 64-bit, bitmasks and enumerations 32-bit. What is said is
//! true; a limit of 0 means none that is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _, MapArray, RecordBatch, StructArray, UnionArray};
use arrow::datatypes::{Field, Schema, UnionFields};
use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries,
    SqlSupportedTransaction, SqlSupportedUnions, SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};
use lakehouse::name::{MAX_COLUMN_NAME_BYTES, MAX_NAME_BYTES};

use crate::engine::SQL_BYTES_MAX;

/// The version of the Arrow columnar format: <https://arrow.apache.org/docs/format/Versioning.html>.
const ARROW_FORMAT_VERSION: &str = "1.5";

/// The version of Substrait that is understood: the consumer's own; others are neither checked nor refused.
fn substrait_version() -> String {
    let version = datafusion_substrait::substrait::version::version();
    format!("{}.{}.{}", version.major_number, version.minor_number, version.patch_number)
}

const KEYWORDS: [&str; 8] = ["ANALYZE", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SHOW", "UNNEST"];
const NUMERIC: [&str; 20] = [
    "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "exp", "floor", "ln", "log", "log10", "pi", "power",
    "random", "round", "signum", "sin", "sqrt", "tan",
];
const TEXT: [&str; 18] = [
    "ascii",
    "char_length",
    "concat",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "substr",
    "translate",
    "trim",
    "upper",
];
const DATETIME: [&str; 8] =
    ["current_date", "current_time", "date_bin", "date_part", "date_trunc", "extract", "now", "to_timestamp"];

/// All there is to say.
pub(super) fn infos(timeout: Option<Duration>, takes_rows: bool) -> Result<SqlInfoData, FlightError> {
    let mut infos = SqlInfoDataBuilder::new();
    server(&mut infos, timeout, takes_rows);
    language(&mut infos);
    names(&mut infos);
    queries(&mut infos);
    results_and_transactions(&mut infos);
    limits(&mut infos);
    infos.build()
}

fn server(infos: &mut SqlInfoDataBuilder, timeout: Option<Duration>, takes_rows: bool) {
    infos.append(SqlInfo::FlightSqlServerName, "Mallard");
    infos.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    infos.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_FORMAT_VERSION);
    infos.append(SqlInfo::FlightSqlServerReadOnly, !takes_rows);
    infos.append(SqlInfo::FlightSqlServerSql, true);
    infos.append(SqlInfo::FlightSqlServerSubstrait, true);
    infos.append(SqlInfo::FlightSqlServerSubstraitMinVersion, &*substrait_version());
    infos.append(SqlInfo::FlightSqlServerSubstraitMaxVersion, &*substrait_version());
    infos.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    infos.append(SqlInfo::FlightSqlServerCancel, true);
    infos.append(SqlInfo::FlightSqlServerBulkIngestion, takes_rows);
    infos.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let timeout_ms = timeout.map_or(0, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    infos.append(SqlInfo::FlightSqlServerStatementTimeout, timeout_ms);
    infos.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
}

fn language(infos: &mut SqlInfoDataBuilder) {
    infos.append(SqlInfo::SqlKeywords, &KEYWORDS[..]);
    infos.append(SqlInfo::SqlNumericFunctions, &NUMERIC[..]);
    infos.append(SqlInfo::SqlStringFunctions, &TEXT[..]);
    infos.append(SqlInfo::SqlSystemFunctions, &["coalesce", "nullif", "version"][..]);
    infos.append(SqlInfo::SqlDatetimeFunctions, &DATETIME[..]);
    infos.append(SqlInfo::SqlSupportsConvert, conversions());
    let grammar = bits([SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32]);
    infos.append(SqlInfo::SqlSupportedGrammar, grammar);
    // Entry level asks for updates and cursors.
    infos.append(SqlInfo::SqlAnsi92SupportedLevel, 0_i32);
    infos.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    for code in [SqlInfo::SqlDdlCatalog, SqlInfo::SqlDdlSchema, SqlInfo::SqlDdlTable] {
        infos.append(code, false);
    }
    infos.append(SqlInfo::SqlSupportsNonNullableColumns, true);
}

fn names(infos: &mut SqlInfoDataBuilder) {
    infos.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    infos.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // Quoted names are taken as they are written, which the enumeration has no word for.
    infos.append(SqlInfo::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32);
    infos.append(SqlInfo::SqlSearchStringEscape, "\\");
    infos.append(SqlInfo::SqlExtraNameCharacters, "");
    infos.append(SqlInfo::SqlAllTablesAreSelectable, true);
    infos.append(SqlInfo::SqlSchemaTerm, "schema");
    infos.append(SqlInfo::SqlProcedureTerm, "procedure");
    infos.append(SqlInfo::SqlCatalogTerm, "catalog");
    infos.append(SqlInfo::SqlCatalogAtStart, true);
    // Elements are for procedures, indexes and privileges, none of which SQL can make here.
    infos.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    infos.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
}

fn queries(infos: &mut SqlInfoDataBuilder) {
    infos.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    for code in [
        SqlInfo::SqlSupportsColumnAliasing,
        SqlInfo::SqlNullPlusNullIsNull,
        SqlInfo::SqlSupportsTableCorrelationNames,
        SqlInfo::SqlSupportsExpressionsInOrderBy,
        SqlInfo::SqlSupportsOrderByUnrelated,
        SqlInfo::SqlCorrelatedSubqueriesSupported,
    ] {
        infos.append(code, true);
    }
    // A backslash alone escapes.
    infos.append(SqlInfo::SqlSupportsLikeEscapeClause, false);
    infos.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    let group_by = [SqlSupportedGroupBy::SqlGroupByUnrelated, SqlSupportedGroupBy::SqlGroupByBeyondSelect];
    infos.append(SqlInfo::SqlSupportedGroupBy, bits(group_by.map(|value| value as i32)));
    infos.append(SqlInfo::SqlOuterJoinsSupportLevel, SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons,
        SqlSupportedSubqueries::SqlSubqueriesInExists,
        SqlSupportedSubqueries::SqlSubqueriesInIns,
        SqlSupportedSubqueries::SqlSubqueriesInQuantifieds,
    ];
    infos.append(SqlInfo::SqlSupportedSubqueries, bits(subqueries.map(|value| value as i32)));
    let unions = [SqlSupportedUnions::SqlUnion, SqlSupportedUnions::SqlUnionAll];
    infos.append(SqlInfo::SqlSupportedUnions, bits(unions.map(|value| value as i32)));
    infos.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    infos.append(SqlInfo::SqlSelectForUpdateSupported, false);
    infos.append(SqlInfo::SqlStoredProceduresSupported, false);
    infos.append(SqlInfo::SqlNamedParametersSupported, false);
    infos.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

fn results_and_transactions(infos: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    infos.append(SqlInfo::SqlDefaultTransactionIsolation, i64::from(none));
    infos.append(SqlInfo::SqlTransactionsSupported, false);
    infos.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits([none]));
    infos.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    infos.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    let forward = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    infos.append(SqlInfo::SqlSupportedResultSetTypes, bits([forward]));
    let read_only = SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32;
    infos.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, bits([read_only]));
    infos.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0_i32);
    infos.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0_i32);
    infos.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0_i32);
    infos.append(SqlInfo::SqlBatchUpdatesSupported, true);
    infos.append(SqlInfo::SqlSavepointsSupported, false);
    infos.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    infos.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
}

fn limits(infos: &mut SqlInfoDataBuilder) {
    let known = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    infos.append(SqlInfo::SqlMaxStatementLength, known(SQL_BYTES_MAX));
    infos.append(SqlInfo::SqlMaxColumnNameLength, known(MAX_COLUMN_NAME_BYTES));
    for code in [SqlInfo::SqlDbSchemaNameLength, SqlInfo::SqlMaxCatalogNameLength, SqlInfo::SqlMaxTableNameLength] {
        infos.append(code, known(MAX_NAME_BYTES));
    }
    for code in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        infos.append(code, 0_i64);
    }
}

/// The rows for the codes that are asked for; all, if none is.
pub(super) fn rows(infos: &SqlInfoData, query: CommandGetSqlInfo) -> Result<RecordBatch, FlightError> {
    let batch = query.into_builder(infos).build()?;
    let schema = batch.schema();
    let [codes, values] = batch.columns() else { return Ok(batch) };
    let (fields, kinds, offsets, children) = values.as_union().clone().into_parts();
    let children = children.into_iter().map(with_common_names).collect::<Result<Vec<_>, _>>()?;
    let ids = fields.iter().map(|(id, _)| id);
    let fields = fields.iter().zip(&children);
    let fields = fields.map(|((_, field), child)| field.as_ref().clone().with_data_type(child.data_type().clone()));
    let values = UnionArray::try_new(UnionFields::try_new(ids, fields)?, kinds, offsets, children)?;
    let value = schema.field(1).clone().with_data_type(values.data_type().clone());
    let schema = Schema::new(vec![schema.field(0).clone(), value]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(codes), Arc::new(values)])?)
}

/// Maps whose columns are called `key` and `value`, as Java wants them; arrow-flight says `keys` and `values`.
fn with_common_names(array: ArrayRef) -> Result<ArrayRef, ArrowError> {
    let Some(map) = array.as_map_opt() else { return Ok(array) };
    let (_, offsets, entries, nulls, is_sorted) = map.clone().into_parts();
    let (fields, columns, no_nulls) = entries.into_parts();
    let renamed = fields.iter().zip(["key", "value"]).map(|(field, name)| field.as_ref().clone().with_name(name));
    let entries = StructArray::try_new(renamed.collect(), columns, no_nulls)?;
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, is_sorted)?))
}

/// What CAST converts: numbers into each other, and everything from and into text.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    let numbers = [
        SqlSupportsConvert::SqlConvertTinyint as i32,
        SqlSupportsConvert::SqlConvertSmallint as i32,
        SqlSupportsConvert::SqlConvertInteger as i32,
        SqlSupportsConvert::SqlConvertBigint as i32,
        SqlSupportsConvert::SqlConvertReal as i32,
        SqlSupportsConvert::SqlConvertFloat as i32,
        SqlSupportsConvert::SqlConvertDecimal as i32,
    ];
    let text = SqlSupportsConvert::SqlConvertVarchar as i32;
    let (date, timestamp) = (SqlSupportsConvert::SqlConvertDate as i32, SqlSupportsConvert::SqlConvertTimestamp as i32);
    let mut conversions: BTreeMap<i32, Vec<i32>> =
        numbers.iter().map(|from| (*from, numbers.into_iter().chain([text]).collect())).collect();
    conversions.insert(date, vec![date, timestamp, text]);
    conversions.insert(timestamp, vec![date, timestamp, text]);
    conversions.insert(text, numbers.into_iter().chain([date, timestamp, text]).collect());
    conversions
}

/// A bitmask of enumeration values: value n is bit n.
fn bits<const N: usize>(values: [i32; N]) -> i32 {
    values.into_iter().fold(0, |mask, value| mask | (1 << value))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _};
    use arrow::datatypes::UInt32Type;

    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_a_value() {
        let batch = infos(None, true).unwrap().record_batch([]).unwrap();
        let codes: Vec<u32> = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let ranges = (0..=11).chain(100..=101).chain(500..=576);
        let missing: Vec<u32> = ranges.filter(|code| !codes.contains(code)).collect();
        assert_eq!(missing, [0_u32; 0]);
    }

    #[test]
    fn drivers_find_the_types_they_cast_to() {
        let batch = infos(None, true).unwrap().record_batch([]).unwrap();
        let codes = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let kinds = batch.column(1).as_union();
        let kind = |code: SqlInfo| {
            let row = codes.iter().position(|known| *known == code as u32).unwrap();
            (kinds.type_id(row), kinds.value(row).len())
        };
        assert_eq!(kind(SqlInfo::FlightSqlServerTransaction), (3, 1), "int32");
        assert_eq!(kind(SqlInfo::SqlDefaultTransactionIsolation), (2, 1), "int64");
        assert_eq!(kind(SqlInfo::SqlMaxTableNameLength), (2, 1), "int64");
        assert_eq!(kind(SqlInfo::SqlIdentifierQuoteChar), (0, 1), "text");
        assert_eq!(kind(SqlInfo::SqlSupportsConvert), (5, 1), "map");
    }
}
