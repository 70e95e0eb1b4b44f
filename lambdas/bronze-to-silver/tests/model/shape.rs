//! What a case's table is: the settings that merging depends on, drawn at random, and their TOML.

use fastrand::Rng;

/// A text may have fewer characters than this, if the table has an expectation.
pub const TEXT_CHARS_END: usize = 5;

static KEY: [&str; 2] = ["id", "k2"];
static SEQUENCE: [&str; 2] = ["seq", "seq2"];

/// What happens to columns that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewColumns {
    Add,
    Rescue,
    Reject,
}

/// The settings of a table.
#[derive(Clone, Debug)]
pub struct Shape {
    /// 0: append-only.
    pub key_columns: usize,
    /// 0: the order of arrival.
    pub sequence_columns: usize,
    pub deletes: bool,
    pub ignore_nulls: bool,
    pub history: bool,
    pub partitioned: bool,
    pub vectors: &'static str,
    pub new_columns: NewColumns,
    /// Whether the columns are declared, or the first frame's are the table's.
    pub declared: bool,
    pub expects: bool,
    /// Whether frames may bring the column `extra`, which is not declared.
    pub extra: bool,
    /// Whether some objects are JSON.
    pub text: bool,
}

impl Shape {
    pub fn draw(rng: &mut Rng) -> Self {
        let key_columns = if rng.u8(0..6) == 0 { 0 } else { rng.usize(1..=2) };
        let is_keyed = key_columns > 0;
        let history = is_keyed && rng.u8(0..3) == 0;
        let ignore_nulls = is_keyed && !history && rng.u8(0..3) == 0;
        let declared = rng.bool();
        let new_columns = match rng.u8(0..4) {
            // Without declared columns, which columns are new depends on which frame is merged first.
            0 if declared && !ignore_nulls => NewColumns::Rescue,
            1 if declared => NewColumns::Reject,
            _ => NewColumns::Add,
        };
        let mut shape = Self {
            key_columns,
            sequence_columns: if is_keyed { rng.usize(0..=2) } else { 0 },
            deletes: is_keyed && rng.u8(0..4) != 0,
            ignore_nulls,
            history,
            partitioned: rng.u8(0..3) == 0,
            vectors: ["\"auto\"", "true", "false"][rng.usize(0..3)],
            new_columns,
            declared,
            expects: rng.bool(),
            // A row without the column has a NULL in it, which an update that ignores NULLs does not take.
            extra: !ignore_nulls && rng.bool(),
            text: false,
        };
        // A column that is not declared is none as long as no text has a value in it, but rules may name it. And text
        // arrives when it is written, which is now.
        let is_fit = shape.declared && (shape.sequence_columns > 0 || !is_keyed);
        shape.text = is_fit && rng.bool();
        shape
    }

    pub fn is_keyed(&self) -> bool {
        self.key_columns > 0
    }

    /// Whether objects must be merged in their order: a NULL that an update ignores stands for a value that came
    /// before, so that a row depends on what was there when it came.
    pub fn in_order(&self) -> bool {
        self.ignore_nulls
    }

    pub fn key(&self) -> &'static [&'static str] {
        &KEY[..self.key_columns]
    }

    pub fn sequence(&self) -> &'static [&'static str] {
        &SEQUENCE[..self.sequence_columns]
    }

    /// Whether a value of `n` that is wider than an `integer` makes the column wider. It is bad if the column is
    /// declared: that is a contract.
    pub fn widens(&self) -> bool {
        !self.declared
    }

    /// The definition's file: one table, `t`.
    pub fn toml(&self) -> String {
        let mut toml = "name = \"lab\"\n[tables.t]\n".to_owned();
        let names = |columns: &[&str]| columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let mut set = |line: &str| toml.push_str(&format!("{line}\n"));
        if self.is_keyed() {
            set(&format!("primary_key = [{}]", names(self.key())));
        }
        match self.sequence() {
            [] => {}
            [one] => set(&format!("sequence_by = \"{one}\"")),
            several => set(&format!("sequence_by = [{}]", names(several))),
        }
        if self.deletes {
            set("delete_when = \"op = 'd'\"\ndrop_columns = [\"op\"]");
        }
        if self.ignore_nulls {
            set("ignore_null_updates = true");
        }
        if self.history {
            set("history = true");
        }
        if self.partitioned {
            set("partition_by = [\"part\"]");
        }
        set(&format!("deletion_vectors = {}", self.vectors));
        match self.new_columns {
            NewColumns::Add => {}
            NewColumns::Rescue => set("on_new_column = \"rescue\""),
            NewColumns::Reject => set("on_new_column = \"reject\""),
        }
        if self.declared {
            let columns: Vec<String> = self
                .stored_columns()
                .into_iter()
                .map(|(name, sql_type)| format!("{{ name = \"{name}\", type = \"{sql_type}\" }}"))
                .collect();
            set(&format!("columns = [{}]", columns.join(", ")));
        }
        if self.expects {
            set(&format!(
                "[tables.t.expect]\nshort = {{ check = \"length(v) < {TEXT_CHARS_END}\", on_fail = \"quarantine\" }}"
            ));
        }
        toml
    }

    fn stored_columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns = vec![("id", "bigint")];
        if self.key_columns > 1 {
            columns.push(("k2", "varchar"));
        }
        columns.extend(self.sequence().iter().map(|name| (*name, "bigint")));
        columns.extend([("v", "varchar"), ("n", "integer")]);
        if self.partitioned {
            columns.push(("part", "varchar"));
        }
        columns
    }
}
