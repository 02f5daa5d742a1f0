// Walks over a directory and reads all files in it.
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

public class Walk {
    public static void main(String[] arguments) throws IOException {
        long bytes = 0;
        try (var files = Files.walk(Path.of(arguments[0]))) {
            for (Path file : (Iterable<Path>) files::iterator)
                if (Files.isRegularFile(file))
                    bytes += Files.readAllBytes(file).length;
        }
        System.out.println(bytes);
    }
}
