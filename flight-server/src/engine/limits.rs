//! How large and how deep a statement may be.
//!
//! The parser, the planner, the operators and the mere dropping of a plan walk trees by recursion, and a stack that
//! overflows takes the process along, with every other query in it. So a statement is measured before it is planned:
//! its text and its words before it is parsed, then the tree. Measured too is what a short text can make large: names
//! of a WITH that are used by others of it, lists, types in a text.
//!
//! On a stack of 2 MiB, release builds overflow at an expression depth between 1,000 and 2,000, between 2,000 and 4,000
//! set operations, and between 250 and 500 joined tables; the parsed tree alone bears 32,000 links. The limits are a
//! half to a quarter of what still worked, and workers have 16 times that stack, since the parts of a statement add up:
//! a test meets all limits at once.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, TableFactor, Visit as _, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use lakehouse::{Error, Result};

/// The longest SQL text, in bytes. BI tools generate long texts; a megabyte of it is no query any more.
pub const SQL_BYTES_MAX: usize = 1 << 20;

/// The most operators and keywords in a statement. Lists of values are not counted.
pub const SQL_OPERATORS_MAX: usize = 16_000;

/// How deep an expression may be; `a + b + c` is 3 deep, a list in `IN (…)` 1, whatever its length.
pub const EXPRESSION_DEPTH_MAX: usize = 500;

/// The most UNION, INTERSECT and EXCEPT in a statement.
pub const SET_OPERATIONS_MAX: usize = 500;

/// The most tables and subqueries that a statement reads from.
pub const TABLES_MAX: usize = 125;

/// The most values in one `IN (…)`: the predicate that a scan makes of it is a tree as deep as the list is long.
pub const LIST_VALUES_MAX: usize = 25_000;

/// How deep the type may be that `arrow_cast` names in a text.
pub const TYPE_DEPTH_MAX: usize = 64;

/// Measures a statement's text, before it is parsed.
pub(super) fn check_text(sql: &str) -> Result<()> {
    let bytes = sql.len();
    if bytes > SQL_BYTES_MAX {
        return Err(Error::exhausted(format!("the statement has {bytes} bytes; the most is {SQL_BYTES_MAX}")));
    }
    // What can't be cut into tokens is left to the parser, which says where.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let operators = tokens.iter().filter(|token| is_operator(token)).count();
    within("operators and keywords", operators, SQL_OPERATORS_MAX, "use IN (…) for long lists of values, or split it")
}

/// Measures a statement, before it is planned.
pub(super) fn check_tree(statement: &Statement) -> Result<()> {
    let inner = match statement {
        Statement::Explain(explained) => return check_tree(&explained.statement),
        Statement::Statement(inner) => inner,
        _ => return Ok(()),
    };
    let mut measure = Measure::default();
    let _ = inner.visit(&mut measure);
    let Measure { deepest, set_operations, tables, longest_list, deepest_type, .. } = measure;
    within("levels in an expression", deepest, EXPRESSION_DEPTH_MAX, "use IN (…) instead of a chain of OR")?;
    within("values in one IN (…)", longest_list, LIST_VALUES_MAX, "split it, or join with the values as rows")?;
    within("levels in a type", deepest_type, TYPE_DEPTH_MAX, "use a flatter one")?;
    within("set operations", set_operations, SET_OPERATIONS_MAX, "split it")?;
    let cure = "split it, or declare a part of it as a model; what WITH names counts as often as it is used";
    within("tables and subqueries", tables, TABLES_MAX, cure)
}

fn within(what: &str, count: usize, most: usize, cure: &str) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::exhausted(format!("the statement has {count} {what}; the most is {most}: {cure}")))
}

/// All that can make a tree deep; values, names, commas and parentheses can't (the parser bounds the last itself).
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => word.keyword != Keyword::NoKeyword,
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::HexStringLiteral(_)
        | Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::EOF => false,
        _ => true,
    }
}

#[derive(Default)]
struct Measure {
    depth: usize,
    deepest: usize,
    set_operations: usize,
    tables: usize,
    longest_list: usize,
    deepest_type: usize,
    /// How many tables and subqueries each name of a WITH stands for: it is planned anew wherever it is used.
    named: HashMap<String, usize>,
}

impl Measure {
    /// The tables and subqueries of a named query, alone.
    fn tables_of(&self, query: &Query) -> usize {
        let mut own = Self { named: self.named.clone(), ..Self::default() };
        let _ = query.visit(&mut own);
        own.tables
    }
}

fn levels(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'(').count()
}

impl Visitor for Measure {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        match expr {
            Expr::InList { list, .. } => self.longest_list = self.longest_list.max(list.len()),
            Expr::Function(call) if call.name.to_string().to_ascii_lowercase().contains("arrow_") => {
                // However the text is put together, its parts stand in the call.
                self.deepest_type = self.deepest_type.max(levels(&call.args.to_string()));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<()> {
        let count = match table {
            TableFactor::Table { name, .. } => self.named.get(&name.to_string().to_lowercase()).copied(),
            _ => None,
        };
        self.tables = self.tables.saturating_add(count.unwrap_or(1).max(1));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let tables = self.tables_of(&cte.query);
            self.named.insert(cte.alias.name.value.to_lowercase(), tables);
        }
        let mut open = vec![query.body.as_ref()];
        while let Some(body) = open.pop() {
            if let SetExpr::SetOperation { left, right, .. } = body {
                self.set_operations += 1;
                open.extend([left.as_ref(), right.as_ref()]);
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests;
