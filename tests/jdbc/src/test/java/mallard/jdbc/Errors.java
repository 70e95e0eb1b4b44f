package mallard.jdbc;

/** What an error says. */
final class Errors {
    private Errors() {}

    /** Its message, and those of its causes: the driver shows the server's message in some errors only as a cause. */
    static String all(Throwable error) {
        StringBuilder messages = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            messages.append(cause.getMessage()).append('\n');
        }
        return messages.toString();
    }
}
