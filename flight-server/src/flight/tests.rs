mod calls;
mod fixture;
mod ingests;
mod lifecycle;
mod queries;
