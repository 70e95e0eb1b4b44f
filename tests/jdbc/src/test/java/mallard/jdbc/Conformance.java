package mallard.jdbc;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.TestWatcher;

/** Reports tests with a {@link Feature} to the conformance matrix, if MALLARD_CONFORMANCE names its folder. */
final class Conformance implements TestWatcher {
    private static final String CLIENT = "JDBC";

    @Override
    public void testSuccessful(ExtensionContext context) {
        report(context, true);
    }

    @Override
    public void testFailed(ExtensionContext context, Throwable cause) {
        report(context, false);
    }

    private static void report(ExtensionContext context, boolean passed) {
        String folder = System.getenv("MALLARD_CONFORMANCE");
        if (folder == null) {
            return;
        }
        String test = context.getRequiredTestClass().getSimpleName() + "." + context.getRequiredTestMethod().getName();
        StringBuilder lines = new StringBuilder();
        for (String feature : context.getRequiredTestMethod().getAnnotation(Feature.class).value()) {
            lines.append("{\"client\": \"%s\", \"feature\": \"%s\", \"test\": \"%s\", \"passed\": %b}\n"
                    .formatted(CLIENT, feature, test, passed));
        }
        try {
            Files.writeString(
                    Path.of(folder, "jdbc.jsonl"), lines, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
