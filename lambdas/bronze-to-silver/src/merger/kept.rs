//! Silver tables that stay open between merges: a process that merges a table again only reads what was committed since.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use deltalake::DeltaTable;
use lakehouse::delta::{self, Transactions};
use lakehouse::lake::read_log;
use lakehouse::{Lake, Layer, Name, Result};

/// A table at its newest version.
pub(crate) struct Open {
    pub(crate) table: DeltaTable,
    pub(crate) transactions: Transactions,
}

/// Those that are not in use.
#[derive(Default)]
pub(crate) struct KeptTables(Mutex<HashMap<Name, Open>>);

impl KeptTables {
    /// The newest state of a silver table; `None` if nothing was committed to it yet. Whoever uses it gives it back with
    /// [`KeptTables::keep`], unless something failed: then it is opened anew.
    pub(crate) async fn open(&self, lake: &Lake, name: &Name) -> Result<Option<Open>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let mut open = match kept {
            Some(Open { mut table, transactions }) => {
                let (updated, table) = read_log(async move { (table.update_state().await, table) }).await?;
                updated
                    .map_err(|error| delta::convert(&format!("can't read the Delta log of silver.{name}"), error))?;
                Open { table, transactions }
            }
            None => match lake.open(Layer::Silver, name).await? {
                Some(table) => Open { table, transactions: Transactions::default() },
                None => return Ok(None),
            },
        };
        open.transactions.advance(&open.table).await?;
        Ok(Some(open))
    }

    /// Keeps a table for the next merge.
    pub(crate) fn keep(&self, name: &Name, open: Open) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), open);
    }
}
